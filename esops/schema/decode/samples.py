"""A few events of every distinct shape of every type: what is decoded first, since most of what can
go wrong goes wrong with one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from esops.events import RecordedEvent
from esops.schema.decode.batches import packed, unpacked
from esops.schema.decode.plain_shapes import PlainShapes

_MOST_BYTES = 256 << 20
"""Of events in memory; then only the first one of each further shape is kept."""
_MOST_SHAPES = 50_000


class _SampledShape:
    """Of one shape of one type: the first event, the last and the smallest, packed."""

    __slots__ = ("first", "last", "size", "smallest")

    def __init__(self) -> None:
        self.first = self.last = self.smallest = b""
        self.size = -1


class ShapeSamples:
    """Finds them in one read of the events."""

    def __init__(self, shapes: PlainShapes) -> None:
        """None is found yet."""
        self._shapes = shapes
        self._found: dict[tuple[str, str], _SampledShape] = {}
        self._bytes = 0
        self.left_out = 0
        """Events of shapes beyond the bound of what is kept."""
        self.first_alone = False
        """Whether of some shapes only the first event is kept, for their size."""

    @property
    def shapes(self) -> int:
        """How many distinct shapes there are, each counted for each type."""
        return len(self._found)

    @property
    def types(self) -> int:
        """How many types there are."""
        return len({kind for kind, _ in self._found})

    def add(self, events: Sequence[RecordedEvent]) -> None:
        """Look at some events, which are given in the order of the log."""
        hash_of = self._shapes.hash
        last: dict[tuple[str, str], RecordedEvent] = {}
        first: dict[tuple[str, str], RecordedEvent] = {}
        smallest: dict[tuple[str, str], tuple[int, RecordedEvent]] = {}
        for event in events:
            data = event.data
            key = (event.type, hash_of(data))
            last[key] = event
            size = len(data)
            least = smallest.get(key)
            if least is None:
                first[key] = event
                smallest[key] = (size, event)
            elif size < least[0]:
                smallest[key] = (size, event)
        for key, event in last.items():
            self._keep(key, first[key], event, *smallest[key])

    def _keep(
        self,
        key: tuple[str, str],
        first: RecordedEvent,
        last: RecordedEvent,
        size: int,
        smallest: RecordedEvent,
    ) -> None:
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _MOST_SHAPES:
                self.left_out += 1
                return
            found = self._found[key] = _SampledShape()
            found.first = packed([first])
            self._bytes += len(found.first)
        if self._bytes >= _MOST_BYTES:
            self.first_alone = True
            return
        before = len(found.last) + len(found.smallest)
        # Packed, since an event keeps its whole batch in memory.
        found.last = packed([last])
        if found.size < 0 or size < found.size:
            found.smallest, found.size = packed([smallest]), size
        self._bytes += len(found.last) + len(found.smallest) - before

    def events(self) -> Iterator[RecordedEvent]:
        """The events, each once, by type and shape."""
        for _, found in sorted(self._found.items()):
            seen = set()
            for content in (found.first, found.last, found.smallest):
                if content:
                    (event,) = unpacked(content)
                    if event.position not in seen:
                        seen.add(event.position)
                        yield event
