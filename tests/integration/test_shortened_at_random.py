"""Streams that are appended to, shortened and restored at random: the archive and what stays are
always all of it, in order, and what is in the store is the end of its stream.
"""

from __future__ import annotations

import random

import pytest

from esops.archive.planning import planned_streams
from esops.archive.restore import restore
from esops.archive.run import run
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog
from esops.config import load_config
from esops.errors import Refused
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.integration.test_archive import new, of, write
from tests.support import emmett, marten, messagedb
from tests.support.soak import SOAK

MAKERS = {
    "messagedb": messagedb.create,
    "emmett": emmett.create,
    "marten": lambda on: marten.create(on, marten.Variant(text_ids=True)),
}
ROUNDS = 8


def drawn(chance: random.Random, layout: str) -> str:
    """A policy; Marten and Emmett shorten only up to an event that carries the state."""
    keys = []
    if layout != "messagedb" or chance.random() < 0.6:
        keys.append("until = " + chance.choice(['"sum"', '["sum", "b"]']))
    if not keys or chance.random() < 0.4:
        keys.append(f"keep_last = {chance.randrange(1, 9)}")
    removal = chance.choice(["delete", "delete", "keep"])
    batch = chance.choice([1, 3, 50])
    return "\n".join([f'store = "s"\nstream = "*"\nremove = "{removal}"\nbatch = {batch}', *keys])


@pytest.mark.skipif(not SOAK, reason="a long series, for make soak")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("layout", MAKERS)
def test_no_event_is_ever_lost_doubled_or_out_of_order(project, dsn, connection, layout, seed):
    chance = random.Random(seed)
    MAKERS[layout](connection)
    append = "quick" if layout == "marten" else "auto"
    settings = PostgresSettings(dsn=dsn, append=append)
    written: dict[str, list[str]] = {f"till-{number}": [] for number in range(4)}
    with open_store("s", settings) as store:

        def hot(stream: str) -> list[str]:
            return [event.id for event in store.read_stream(stream)]

        for _ in range(ROUNDS):
            for stream, ids in written.items():
                kinds = [chance.choice("aabs") for _ in range(chance.randrange(12))]
                events = [new("sum" if kind == "s" else kind) for kind in kinds]
                if events:
                    store.append(stream, events)
                    ids += [event.id for event in events]
            policy = drawn(chance, layout)
            write(project, of(dsn, more=f'append = "{append}"'), policy)
            config = load_config(project.folder / "esops.toml")
            planned = {each.name: each for each in planned_streams(config, "old")}
            before = {stream: hot(stream) for stream in written}
            outcome = run(config, "old")
            assert outcome.events == sum(each.length for each in planned.values())
            for stream, expected in planned.items():
                gone = expected.length if outcome.remove == "delete" else 0
                assert hot(stream) == before[stream][gone:]
                assert len(hot(stream)) == expected.stays >= 1
            runs = Catalog(Repository(config.archives["cold"])).sealed()
            if chance.random() < 0.3:
                chance.shuffle(runs)
                for each in runs:
                    try:
                        restore(*each, store)
                    except Refused as refused:
                        assert "there would be a gap" in refused.message
            joined = settings.model_copy(update={"cold": config.archives["cold"]})
            with open_store("s", joined) as both:
                for stream, ids in written.items():
                    there = hot(stream)
                    assert there == ids[len(ids) - len(there) :]
                    assert [event.id for event in both.read_stream(stream)] == ids
                total = sum(map(len, written.values()))
                assert sum(len(batch.events) for batch in both.read_all()) == total
                assert sum(info.length for info in both.streams()) == total
