"""Every layout in Postgres tells its log from a copy that was restored to an earlier time and has
gone on since, with other events at the same positions.
"""

from __future__ import annotations

import pytest

from esops.errors import AnotherLog, OtherPositions
from esops.events import Position
from esops.stores import open_store
from tests.contract.test_store import LAYOUTS, layout_kit
from tests.support.restoring import backups


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_restored_log_is_told_from_the_one_before(layout, server, dsn, connection):
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
