"""What a store claims in its capabilities, or by having a part, it has to do."""

from __future__ import annotations

from datetime import timedelta

from esops.events import (
    RecordedEvent,
    StreamKey,
    StreamRef,
)
from esops.stores.archiving import VersionRange
from esops.stores.base import settled
from esops.testing.kit import Kit


class StoreClaims:
    """The tests of what only some stores can do; a part of StoreContract."""

    def test_shards_split_the_streams(self, kit: Kit) -> None:
        """Each stream is in one shard of three, with all its events, in order."""
        if not kit.store.capabilities.shards:
            return
        streams = [kit.stream() for _ in range(20)]
        for stream in streams:
            kit.store.append(stream, kit.events(*"ab"))
        shards = [kit.read(shard=(number, 3)) for number in range(3)]
        seen = [stream for events in shards for stream in {event.stream for event in events}]
        assert sorted(seen) == sorted(streams)
        for events in shards:
            by_stream = {stream: [e.type for e in events if e.stream == stream] for stream in seen}
            assert all(types in ([], ["a", "b"]) for types in by_stream.values())

    def test_checkpoints_come_from_a_store_that_keeps_them(self, kit: Kit) -> None:
        """And from no other."""
        found = kit.store.checkpoints()
        assert all(each.name for each in found)
        # A store that claims them may have none yet; one that does not must not invent any.
        assert kit.store.capabilities.checkpoints or not found

    def test_what_cannot_be_appended_to_says_so(self, kit: Kit) -> None:
        """The contract writes to the store, so it has to claim that it can be written to."""
        assert kit.store.capabilities.append

    def test_a_log_recognises_its_own_mark(self, kit: Kit) -> None:
        """What was marked is the same log a moment later."""
        identity = kit.store.identity
        if identity is None:
            return
        kit.store.append(kit.stream(), kit.events("a"))
        head = kit.store.head().position
        assert head is not None
        mark = identity.mark(head)
        kit.store.append(kit.stream(), kit.events("b"))
        # A store may have nothing to tell its log by at that place, and says so with None.
        if mark is not None:
            identity.recognise(head, mark)

    def test_a_range_for_sql_ends_where_it_says(self, kit: Kit) -> None:
        """It counts its events, and names the database."""
        access = kit.store.sql
        if access is None:
            return
        stream = kit.stream()
        positions = [kit.store.append(stream, kit.events("x")) for _ in range(5)]
        assert access.database()
        # A range ends at settled events: only what has settled can be counted below.
        assert settled(kit.store)[1] is None
        first = access.range(kit.begin, positions[-1], 3)
        assert (first.events, first.reached) == (3, positions[2])
        rest = access.range(first.reached, positions[-1], 3)
        assert (rest.events, rest.reached) == (2, positions[4])

    def test_archived_streams_are_exported_as_they_are(self, kit: Kit) -> None:
        """Every event once, stream by stream, with its position and time."""
        archiving = kit.store.archiving
        if archiving is None:
            return
        from esops.stores.archive_batches import from_archive

        key, events = self._a_stream(kit)
        columns = archiving.extra_columns()
        batches = list(archiving.export([StreamRef(*key, len(events))], columns))
        parts = len(events[0].position)
        exported = [event for batch in batches for event in from_archive(batch, parts)]
        assert [event[:5] for event in exported] == [event[:5] for event in events]
        # Not every store keeps a row for a stream.
        assert set(archiving.stream_rows([key])) <= {key}

    def test_each_removal_removes_and_a_restore_brings_back(self, kit: Kit) -> None:
        """A stream that changed since is left alone; asking twice changes nothing."""
        archiving = kit.store.archiving
        for removal in archiving.removals if archiving is not None else ():
            assert archiving is not None
            key, events = self._a_stream(kit)
            batches = list(archiving.export([StreamRef(*key, len(events))]))
            found = archiving.stream_rows([key]).get(key)
            row = None if found is None else found.row
            strategy = archiving.removal_strategy(removal)
            first, last = events[0].version, events[-1].version
            leaves = [each.slice(0, each.num_rows - strategy.keeps) for each in batches]
            part = VersionRange(key, first, last - strategy.keeps, last, ends=True, events=leaves)
            timeouts = (timedelta(seconds=1), timedelta(seconds=30))
            # As if the stream had got an event after it was archived.
            (other,) = archiving.remove(removal, [part._replace(last_version=last - 1)], *timeouts)
            assert other.reason, removal
            assert list(kit.store.read_stream(key.stream)) == events
            # The second time is a run that was killed after the removal and before it noted it.
            for _ in range(2):
                (removed,) = archiving.remove(removal, [part], *timeouts)
                assert removed.reason is None, (removal, removed)
            # A tombstone is for ever, by its meaning.
            if archiving.restores and removal != "tombstone":
                archiving.restore_streams([key], [row], batches)
                assert list(kit.store.read_stream(key.stream)) == events, removal

    def test_a_head_leaves_a_stream_that_continues_and_comes_back(self, kit: Kit) -> None:
        """Whatever is appended in the meantime stays; asking twice changes nothing."""
        archiving = kit.store.archiving
        for removal in archiving.removals if archiving is not None else ():
            assert archiving is not None
            if archiving.removal_strategy(removal).heads is None:
                continue
            key, events = self._a_stream(kit)
            first, last = events[0].version, events[-1].version
            limits = archiving.head_limits(removal, [key])
            # Where the library needs more than events, such as a snapshot, this stream has none.
            assert limits.get(key, last - 1) == last - 1, removal
            head = list(archiving.export([StreamRef(*key, 1, first)]))
            assert sum(each.num_rows for each in head) == 1
            kit.store.append(key.stream, kit.events("d"))
            whole = list(kit.store.read_stream(key.stream))
            part = VersionRange(key, first, first, first, ends=True, events=head, head=True)
            timeouts = (timedelta(seconds=1), timedelta(seconds=30))
            for _ in range(2):
                (removed,) = archiving.remove(removal, [part], *timeouts)
                if key not in limits:
                    assert removed.reason
                    break
                assert removed.reason is None, (removal, removed)
                assert list(kit.store.read_stream(key.stream)) == whole[1:]
            if archiving.restores:
                archiving.restore_streams([key], None, head)
                assert list(kit.store.read_stream(key.stream)) == whole, removal

    def _a_stream(self, kit: Kit) -> tuple[StreamKey, list[RecordedEvent]]:
        stream = kit.stream()
        kit.store.append(stream, kit.events(*"abc"))
        events = list(kit.store.read_stream(stream))
        return StreamKey(stream, events[0].tenant), events
