"""Folds: the state of each key is its row, cached, and written back in bulk.

Reading a row for each event would make a fold as slow as the network. So rows are kept, within a
bound in bytes. During the first load of a version, which nobody reads yet, all rows stay in memory
until that bound is reached. After that, and in a version that follows, they are in two generations,
which approximates LRU at no cost for each event. The missing keys of a batch are fetched together.
Changed rows are written together at a checkpoint, new ones straight into the table by COPY. During
the first load, a Bloom filter of fixed size (B. Bloom, CACM 13/7, 1970) knows which keys cannot
have been written yet, so that most need no query.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from operator import attrgetter, length_hint

import psycopg

from esops.events import Position, RecordedEvent
from esops.projections.arithmetic import use_arithmetic
from esops.projections.definition import Evolve, FoldDefinition, blame
from esops.projections.kinds.fold_key import check_key, of_stream
from esops.projections.projector import VersionTables
from esops.readmodel.form import Unfit
from esops.readmodel.rows import BadEvent, Rows, is_bad_row, one_line
from esops.readmodel.types import Key, Row

_FOLLOWING = 16
"""The part of the cache that a version gets which is not in its first load."""
_SAMPLE, _SMALL = 64, 4_096
"""Rows that are weighed of each piece, and bytes of a row from which on all of them are."""
_ENTRY = 300
"""Bytes of a key, and of its entries in the cache and in the sets of changed and fresh keys."""
_NEARLY = 0.95
"""The part of the bound from which on the cache counts as full."""
_FIRST = 2_048
"""Events of the first piece, when nobody knows yet how large the rows are."""
_BLOOM_BYTES = 8 << 20


class Bloom:
    """A set of keys in a fixed amount of memory: it never forgets a key, and seldom claims to have
    one that was never added.
    """

    def __init__(self, size: int = _BLOOM_BYTES) -> None:
        """`size` is in bytes, and a power of two."""
        self._bits = bytearray(size)
        self._mask = size * 8 - 1
        self.filled = False
        """Whether there is any key in it."""

    def update(self, keys: Iterable[Key]) -> None:
        """Add keys."""
        bits, mask, self.filled = self._bits, self._mask, True
        for key in keys:
            # Two bits a key, both from one hash: hashing is what costs here.
            code = hash(key)
            first, second = code & mask, (code >> 27) & mask
            bits[first >> 3] |= 1 << (first & 7)
            bits[second >> 3] |= 1 << (second & 7)

    def __contains__(self, key: Key) -> bool:
        code = hash(key)
        first, second = code & self._mask, (code >> 27) & self._mask
        return bool(
            self._bits[first >> 3] & (1 << (first & 7))
            and self._bits[second >> 3] & (1 << (second & 7))
        )


class Fold:
    """The projector of a fold.

    Of each key that was touched, `_young` or `_old` has the row (None: there is none). `_dirty`
    keys have changed since the last flush; `_fresh` ones are not in the table. Before the first
    flush of a first load, that is all of them, and none of it is noted (`_unwritten`).
    """

    def __init__(self, definition: FoldDefinition, tables: VersionTables) -> None:
        """The key of the table may not be built yet. From now on this thread calculates as the
        definition's import left it.

        Raises UsageError where the table's key is not of the form of the fold's, and Refused where
        nobody can say how it calculates.
        """
        use_arithmetic(definition)
        table, key = tables.only
        check_key(definition, table, key, conjoined=tables.conjoined)
        self.rows = Rows(table, key, tables.value_types, tables.ensure_keys)
        self._shape = self.rows.shape
        self._shape.changed = self._reshape
        if not tables.value_types:
            self._shape.has_rows = lambda: bool(self._young or self._old)
        self._evolve = definition.evolve
        if definition.key is None and tables.begins is not None:
            self._evolve = _beginning(definition.evolve, tables.begins)
        self._key_of = definition.key or attrgetter(*of_stream(key))
        self._written = Bloom() if tables.empty else None
        self._young: dict[Key, Row | None] = {}
        self._old: dict[Key, Row | None] = {}
        self._dirty: set[Key] = set()
        self._fresh: set[Key] = set()
        self._unwritten = tables.empty and tables.loading
        self._cache = tables.cache
        # A first load keeps all rows in one generation for as long as they fit.
        self._most_bytes = tables.cache if tables.loading else tables.cache // 2
        self._bytes, self._mean, self._skew = 0, 0.0, 1.0
        self.most_at_once = _FIRST
        self.shown: list[tuple[Position, Mapping[str, str]]] = []
        """The columns and types that rows have shown, whenever that has changed since it was
        opened: after which event.
        """
        self.fetched = 0
        """How many rows were read from the table."""

    @property
    def kept(self) -> Mapping[Key, Row | None]:
        """The rows of the young generation, in the order in which their keys came."""
        return self._young

    @property
    def full(self) -> bool:
        """Whether the young generation has reached its size: what is dirty should be flushed, and
        the old generation dropped.
        """
        return self._bytes >= self._most_bytes * _NEARLY

    @property
    def value_types(self) -> Mapping[str, str]:
        """By column, the Python type that was written so far."""
        return self._shape.written

    @property
    def late(self) -> bool:
        """Whether a row has shown a column, or another type, that earlier rows had not."""
        return self._shape.late

    def assume(self, types: Mapping[str, str]) -> None:
        """Fold the next events as if rows of other keys had shown these columns and types, which
        include all that its own rows have shown. Raises BadEvent.
        """
        try:
            self._shape.assume(types)
        except Unfit as error:
            raise BadEvent(str(error)) from None

    def close(self) -> None:
        """Release the rows at once: the collector of cycles seldom runs during a load."""
        self._young, self._old, self._dirty, self._fresh = {}, {}, set(), set()
        self._written = None

    def apply(self, events: Sequence[RecordedEvent], connection: psycopg.Connection) -> None:
        """Fold events into the cached rows; the missing ones are fetched first.

        Raises BadEvent where the function raises, or a key cannot be made or does not fit.
        """
        if self._unwritten:
            keys = self._values(events, connection)
            if self._shape.are_plain(keys):
                self._begin(keys, events)
                self._weigh(keys)
                return
            self._note_all()
        keys, touched = self.keys(events, connection)
        missing = self._missing(touched)
        try:
            self._fetch(missing, connection)
        except psycopg.Error as error:
            if not is_bad_row(error):
                raise
            raise BadEvent(f"its key does not fit the table's: {error}") from error
        self._fold(keys, events)
        self._dirty |= touched
        self._weigh(touched)

    def _begin(self, keys: Sequence[Key], events: Sequence[RecordedEvent]) -> None:
        """Fold while no row is written: a key that is not in memory has none."""
        rows = self._young
        known = len(rows)
        self._fold(keys, events)
        new = list(islice(reversed(rows), len(rows) - known))
        if new and not self._shape.can_be_stored(new):
            try:
                for key in new:
                    self._shape.key(key)
            except Unfit as error:
                raise BadEvent(str(error)) from None

    def _note_all(self) -> None:
        self._unwritten = False
        self._dirty, self._fresh = set(self._young), set(self._young)

    def _fold(self, keys: Sequence[Key], events: Sequence[RecordedEvent]) -> None:
        """Fold events into the rows in memory. Raises BadEvent."""
        left = iter(events)
        pairs = zip(keys, left, strict=True)
        # After an error the rows are of no use: the runner drops this object and starts again at
        # the checkpoint.
        try:
            # What the function returns gets the form of the table at once: whether the next event
            # finds the row here or reads it makes no difference.
            while self._shape.fold(pairs, self._young, self._evolve):
                changed_by = events[len(events) - length_hint(left) - 1]
                self.shown.append((changed_by.position, dict(self._shape.written)))
        except psycopg.Error:
            raise
        except Unfit as error:
            raise BadEvent(str(error)) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also what would end the process, such as sys.exit()
            raise BadEvent(blame(error)) from error

    def _weigh(self, touched: Collection[Key]) -> None:
        """Keep the size of the young generation; `touched` were applied in this piece."""
        if not touched:
            return
        rows = self._young
        # Of many rows, some tell how large they are; weighing each costs more than small rows are
        # worth.
        some: Collection[Key] = list(islice(touched, _SAMPLE))
        mean = self._weight(map(rows.__getitem__, some)) / len(some)
        if mean > _SMALL and len(some) < len(touched):
            mean = self._weight(map(rows.__getitem__, touched)) / len(touched)
        # As many rows as half a generation has: the next piece may have as many others.
        self.most_at_once = max(16, self._most_bytes // int(2 * mean + 1))
        self._mean += (mean - self._mean) * len(touched) / len(rows)
        self._bytes = int(self._skew * self._mean * len(rows))
        if self.full:
            # The rows that are touched most may be larger than the others, or smaller.
            weighed = self._weight(rows.values())
            self._skew *= weighed / self._bytes
            self._bytes = weighed

    def _weight(self, rows: Iterable[Row | None]) -> int:
        """About how many bytes of memory some rows take, with their keys."""
        size = self._shape.size
        return sum(_ENTRY if row is None else _ENTRY + size(row) for row in rows)

    def keys(
        self, events: Sequence[RecordedEvent], connection: psycopg.Connection
    ) -> tuple[list[Key], set[Key]]:
        """The key of each event, in the form of the table, and each key once. Raises BadEvent."""
        values = self._values(events, connection)
        try:
            return self._shape.keys(values, self._young)
        except Unfit as error:
            raise BadEvent(str(error)) from None
        except TypeError as error:
            raise BadEvent(f"its key cannot be made: {blame(error)}") from error

    def _values(self, events: Sequence[RecordedEvent], connection: psycopg.Connection) -> list[Key]:
        """The keys as the definition gives them. Raises BadEvent."""
        self._shape.open(connection)
        try:
            return list(map(self._key_of, events))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise BadEvent(f"its key cannot be made: {blame(error)}") from error

    def flush(self, connection: psycopg.Connection) -> int:
        """Write what changed, in the transaction that the connection is in.

        Returns by how much the number of rows changes. Raises BadEvent for a row that the table
        does not accept.
        """
        young, dirty, fresh = self._young, self._dirty, self._fresh
        some: Iterable[Row | None] = young.values()
        if not self._unwritten:
            some = map(young.__getitem__, dirty & fresh)
        try:
            # Fresh keys are in no table: COPY can insert them. All others may be there.
            inserts = [row for row in some if row is not None]
            known = [(key, young[key]) for key in dirty - fresh]
            change = self.rows.insert(connection, inserts)
            change += self.rows.upsert(connection, [row for _, row in known if row is not None])
            change -= self.rows.delete(connection, [key for key, row in known if row is None])
        except (psycopg.Error, TypeError, ValueError) as error:
            if isinstance(error, psycopg.Error) and not is_bad_row(error):
                raise
            raise BadEvent(f"the table does not accept its row: {one_line(error)}") from error
        return change

    def flushed(self) -> None:
        """The transaction with the last flush has committed: nothing is dirty now; make room."""
        young = self._young
        # A fresh key without a row stays fresh: the table has no row of it.
        fresh = young if self._unwritten else self._fresh
        self._fresh = {key for key in fresh if young[key] is None}
        self._dirty, self._unwritten = set(), False
        if self.full:
            if self._written is not None:
                self._written.update(young)
            # One generation took all the memory; from now on there are two.
            alone, self._most_bytes = self._most_bytes == self._cache, self._cache // 2
            self._old, self._young, self._fresh = {} if alone else young, {}, set()
            self._bytes, self._mean, self._skew = 0, 0.0, 1.0

    def _reshape(self, again: Callable[[Row], Row]) -> None:
        """Give all rows that are kept another form."""
        for rows in (self._young, self._old):
            for key, row in rows.items():
                if row is not None:
                    rows[key] = again(row)

    def _missing(self, keys: set[Key]) -> set[Key]:
        young, old = self._young, self._old
        missing = keys.difference(young)
        # A key of the old generation that is used again becomes young, and so outlives it.
        if old:
            for key in [key for key in missing if key in old]:
                young[key] = old.pop(key)
                missing.discard(key)
        return missing

    def _fetch(self, missing: set[Key], connection: psycopg.Connection) -> None:
        if not missing:
            return
        # What the Bloom filter does not know was never written, and needs no query.
        written, asked = self._written, list(missing)
        if written is not None:
            asked = [key for key in missing if key in written] if written.filled else []
        young = self._young
        for key in missing:
            young[key] = None
        self._fresh |= missing
        for key, row in self.rows.read(connection, asked):
            young[key] = row
            self._fresh.discard(key)
            self.fetched += 1


def following_cache(cache: int) -> int:
    """Bytes for the rows of a version that follows, where those of a first load may take `cache`:
    many versions follow in one machine, each for ever.
    """
    return cache // _FOLLOWING


def _beginning(evolve: Evolve, first: int) -> Evolve:
    """A fold by stream that begins without a row at a stream's first event: a row that exists
    then is of an earlier stream of that name.
    """
    return lambda row, event: evolve(None if event.version == first else row, event)
