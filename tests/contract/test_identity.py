"""Every layout in Postgres tells its log from a copy that was restored to an earlier time and has
gone on since, with other events at the same positions.
"""

from __future__ import annotations

import pytest

from esops.errors import AnotherLog, OtherPositions
from esops.events import Position
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import numbered
from tests.support.layout_kits import LAYOUTS, create, kits, layout_kit
from tests.support.restoring import backups


@pytest.mark.parametrize("layout", kits(LAYOUTS))
def test_a_restored_log_is_told_from_the_one_before(layout, server, dsn, connection):
    create(layout, connection)
    made = layout_kit(layout, dsn, connection)
    kit = next(made)
    shared, lost = kit.stream(), kit.stream()
    kit.store.append(shared, kit.events("a", "b", "c"))
    early = kit.store.head().position
    early_mark = kit.store.identity.mark(early)
    made.close()
    connection.close()
    with backups(server, dsn) as backup:
        backup.take()
        with open_store("s", kit.settings) as store:
            store.append(lost, kit.events("d", "e"))
            late = store.head().position
            late_mark = store.identity.mark(late)
            read = [event for batch in store.read_all(None, late) for event in batch.events]
            applied = store.identity.mark_of(read)
            store.identity.recognise(late, late_mark)
            if applied is not None:
                store.identity.recognise(read[-1].position, applied)
            assert store.identity.tells(late, late_mark)
        backup.restore()
        # The same stream, versions and numbers again, of other events. Where an event has no id of
        # its own, its content tells.
        kit.more = {**kit.more, "again": True}
        with open_store("s", kit.settings) as store:
            with pytest.raises(AnotherLog):
                store.identity.recognise(late, late_mark)
            store.append(lost, kit.events("d", "e"))
            store.append(kit.stream(), kit.events("f"))
            head = store.head().position
            assert head[-1] > late[-1]
            store.identity.recognise(early, early_mark)
            assert store.identity.tells(early, early_mark)
            assert store.identity.tells(late, late_mark) is False
            store.identity.recognise(head, store.identity.mark(head))
            with pytest.raises(AnotherLog):
                store.identity.recognise(late, late_mark)
            if applied is not None:
                with pytest.raises(AnotherLog):
                    store.identity.recognise(read[-1].position, applied)
            with pytest.raises(AnotherLog):
                store.identity.check_reach(Position([*head[:-1], head[-1] + 1_000]))
            with pytest.raises(OtherPositions):
                store.identity.check_reach(Position([*head, 1]))


def of_an_earlier_start(mark):
    """The mark, as of before the server was started again."""
    return {**mark, "log": {**mark["log"], "started": "0"}}


def test_several_events_of_one_number_are_recognised(dsn, connection):
    """As where an application takes one number for each of its commits."""
    layout = numbered.LAYOUTS["custom"]
    connection.execute(
        "CREATE SEQUENCE journal_id_seq; CREATE TABLE journal (id bigint DEFAULT "
        "nextval('journal_id_seq'), idx int, stream text, version int, type text, data jsonb, "
        "PRIMARY KEY (id, idx)); ALTER SEQUENCE journal_id_seq OWNED BY journal.id"
    )

    def commit(data: str, events: int = 3) -> None:
        connection.execute(
            "WITH n AS (SELECT nextval('journal_id_seq') AS n) INSERT INTO journal SELECT n, k, "
            "'cart-' || n, k, 'x', %s FROM n, generate_series(1, %s) k",
            (data, events),
        )

    for number in range(12):
        commit(f'{{"n": {number}}}')
    with open_store("s", PostgresSettings(dsn=dsn, **layout.settings)) as store:
        for position in (Position([12]), Position([5])):
            mark = store.identity.mark(position)
            store.identity.recognise(position, of_an_earlier_start(mark))
        connection.execute("DELETE FROM journal WHERE id = 12 AND idx = 2")
        mark = store.identity.mark(Position([12]))
        connection.execute("DELETE FROM journal WHERE id = 12 AND idx = 1")
        store.identity.recognise(Position([12]), of_an_earlier_start(mark))
        # More of one number than a mark names, or than are looked at.
        commit("{}", 12_000)
        mark = store.identity.mark(Position([13]))
        store.identity.recognise(Position([13]), of_an_earlier_start(mark))
        # Written again from there, other events.
        connection.execute("DELETE FROM journal WHERE id = 13")
        connection.execute("SELECT setval('journal_id_seq', 12)")
        commit('{"again": true}')
        with pytest.raises(AnotherLog, match="at position 13 is another event"):
            store.identity.recognise(Position([13]), of_an_earlier_start(mark))


@pytest.mark.parametrize("name", ["eventsourcing", "custom"])
def test_masked_data_is_no_other_log_where_ids_are_made_up(name, dsn, connection):
    layout = numbered.LAYOUTS[name]
    layout.make(connection)
    layout.insert(connection, [None] * 10)
    data = "data" if name == "custom" else "state"

    def mask(number: int) -> None:
        connection.execute(
            f"UPDATE {layout.table} SET {data} = '{{\"masked\": {number}}}' "
            f"WHERE {layout.number} = {number}"
        )

    head = Position([10])
    with open_store("s", PostgresSettings(dsn=dsn, **layout.settings)) as store:
        mark = store.identity.mark(head)
        mask(9)
        store.identity.recognise(head, mark)
        # The event after it is the same, which it is in no log that was written again from there.
        store.identity.recognise(head, of_an_earlier_start(mark))
        mask(10)
        store.identity.recognise(head, mark)
        with pytest.raises(AnotherLog, match="at position"):
            store.identity.recognise(head, of_an_earlier_start(mark))
