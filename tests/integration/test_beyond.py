"""A processor whose checkpoint no event has ever had: the store was emptied and counts from 1
again, or was restored to an earlier time, and its row stayed. Nobody knows where it stands.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack

import pytest

from esops.archive.checkpoint_guard import behind
from esops.config import load_config
from esops.errors import Refused
from esops.events import NewEvent, Position
from esops.health import lag
from esops.stores import open_store
from esops.stores.checkpoints import has_read
from tests.support import emmett, eventsourcing, marten, messagedb

TRACKING = "CREATE TABLE views_tracking (application_name text PRIMARY KEY, notification_id bigint)"
PROCESSOR = (
    "INSERT INTO emt_processors (processor_id, last_processed_checkpoint, "
    "last_processed_transaction_id) VALUES ('views', {}, '0')"
)
ROWS = {
    "marten": ("INSERT INTO mt_event_progression (name, last_seq_id) VALUES ('Views:All', {})"),
    "emmett": PROCESSOR.format("lpad('{}', 19, '0')"),
    "emmett-pair": PROCESSOR.format("'00000000000000000009:' || lpad('{}', 19, '0')"),
    "eventsourcing": f"{TRACKING}; INSERT INTO views_tracking VALUES ('BankAccounts', {{}})",
    "message-db": (
        "INSERT INTO message_store.messages (stream_name, position, type, data) VALUES "
        "('account:position-views', 0, 'Recorded', '{{\"position\": {}}}')"
    ),
}
CREATE = {
    "marten": marten.create,
    "emmett": emmett.create,
    "emmett-pair": emmett.create,
    "eventsourcing": eventsourcing.create,
    "message-db": messagedb.create,
}


@pytest.mark.parametrize("layout", ROWS)
def test_it_has_read_nothing_and_takes_nothing_over(project, dsn, connection, layout):
    CREATE[layout](connection)
    if layout.startswith("emmett"):
        connection.execute(emmett.STORE_CHECKPOINT)
    project.configure(stores={"s": {"dsn": dsn}})
    config = load_config(project.folder / "esops.toml")
    with ExitStack() as stack:
        store = stack.enter_context(open_store(*config.store("s")))
        stream = "account-1" if layout == "message-db" else str(uuid.uuid4())
        store.append(stream, [NewEvent(str(uuid.uuid4()), "x", b"{}") for _ in range(3)])
        connection.execute(ROWS[layout].format(9))
        (one,) = (each for each in store.checkpoints() if each.kind == "processor")
        assert (one.position, one.beyond) == (None, True)
        assert "at 9" in one.evidence
        assert lag.lag_of(store, one, store.head()) == lag.UNKNOWN
        assert not has_read(store, one, store.head().position)
        assert [each.name for each in behind(config, store, "s", lambda _: 1)] == [one.name]
        found = project.run("doctor", "--output", "json").json["findings"]
        assert "ESOPS-D101" in {each["code"] for each in found}
        if layout != "message-db":
            at = store.head().position
            assert at is not None
            for to in (at, Position((*at[:-1], 20))):
                with pytest.raises(Refused, match="above 3"), connection.transaction():
                    store.sql.set_checkpoint(connection, one.name, to, stopped=True)


def test_a_transaction_that_has_not_begun(dsn, project, connection):
    emmett.create(connection)
    project.configure(stores={"s": {"dsn": dsn}})
    with open_store(*load_config(project.folder / "esops.toml").store("s")) as store:
        store.append("account-1", [NewEvent(str(uuid.uuid4()), "x", b"{}")])
        connection.execute(PROCESSOR.format("'00000000009999999999:0000000000000000001'"))
        (one,) = store.checkpoints()
        assert (one.position, one.beyond) == (None, True)
        # After a restore from a dump, the messages have such transactions themselves.
        connection.execute("UPDATE emt_messages SET transaction_id = '9999999999'")
        (one,) = store.checkpoints()
        assert (one.position, one.beyond) == (Position((9_999_999_999, 1)), False)
