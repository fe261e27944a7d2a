"""Writers at work while streams leave: each event that was committed is in the store or in an archive
that verifies, with and without a foreign key from events to streams.
"""

from __future__ import annotations

import random
import threading
import time
import uuid

import psycopg
import pytest

from esops.archive.run import RunRequest, run
from esops.config import load_config
from tests.faults.test_archive import both, write
from tests.support import marten
from tests.support.soak import SOAK, rounds
from tests.support.waiting import until

STREAMS = 60
FUNCTION = """
-- As Marten's mt_quick_append_events: the row of a stream that is there is read without a lock, and
-- updated after its events were inserted.
CREATE FUNCTION append(stream varchar, event uuid, pause float8) RETURNS boolean LANGUAGE plpgsql
AS $$
DECLARE at bigint; gone boolean;
BEGIN
  SELECT version, is_archived INTO at, gone FROM mt_streams WHERE id = stream;
  IF gone THEN RETURN FALSE; END IF;
  IF at IS NULL THEN
    at := 0;
    INSERT INTO mt_streams (id, version) VALUES (stream, 0);
  END IF;
  INSERT INTO mt_events (seq_id, id, stream_id, version, data, type)
  VALUES (nextval('mt_events_sequence'), event, stream, at + 1, '{}', 'added');
  PERFORM pg_sleep(pause);
  UPDATE mt_streams SET version = at + 1, timestamp = now() WHERE id = stream;
  RETURN TRUE;
END $$
"""


@pytest.mark.parametrize(
    ("foreign_key", "how"),
    [(True, "archive"), (False, "delete"), *([(True, "delete"), (False, "archive")] * SOAK)],
)
def test_no_event_is_missing_from_both_places(foreign_key, how, project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    if not foreign_key:
        connection.execute("ALTER TABLE mt_events DROP CONSTRAINT mt_events_stream_id_fkey")
    connection.execute(FUNCTION)
    write(project, dsn, how, policy='lock_timeout = "200ms"')
    stop = threading.Event()
    written: dict[str, set[str]] = {}
    refused = []

    def append(seed: int) -> None:
        chance = random.Random(seed)
        with psycopg.connect(dsn, autocommit=True) as writer:
            while not stop.is_set():
                stream, event = f"cart-{chance.randrange(STREAMS):03d}", str(uuid.uuid4())
                pause = chance.choice([0, 0, 0.01])
                try:
                    (done,) = writer.execute(
                        "SELECT append(%s, %s, %s)", (stream, event, pause)
                    ).fetchone()
                except psycopg.errors.UniqueViolation:
                    continue  # two writers of one stream
                if done:
                    written.setdefault(stream, set()).add(event)
                else:
                    refused.append(stream)
                time.sleep(0.15)

    writers = [threading.Thread(target=append, args=(seed,)) for seed in range(3)]
    for each in writers:
        each.start()
    try:
        until(lambda: len(written) > STREAMS // 4)
        removed = 0
        for _ in range(rounds(3, 60)):
            removed += run(
                load_config(project.folder / "esops.toml"),
                "old",
                RunRequest(despite_checkpoints=True),
            ).removed
        # A writer comes to a stream that has gone, sooner or later.
        until(lambda: refused)
    finally:
        stop.set()
        for each in writers:
            each.join()
    assert removed
    assert refused
    hot, cold = both(project, dsn)
    for stream, events in written.items():
        assert not events - hot.get(stream, set()) - cold.get(stream, set()), stream
