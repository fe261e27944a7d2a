"""What other runs of the same log hold of streams that come back from one run.

A stream may be in several runs: as its head and what followed, piece by piece as it continued after
a removal, or twice, as it was kept at first. So a run alone may be outdated, or leave a gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Self

import pyarrow as pa

from esops.archive.archived_groups import events_of_streams
from esops.archive.compare import PLACE, by_stream, by_version, only
from esops.archive.log_order import Misplaced, misplaced
from esops.archive.log_runs import LogRuns
from esops.archive.stream_pieces import StreamPieces
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.archive_format.schema import Damaged
from esops.errors import Refused
from esops.events import StreamKey
from esops.stores.archiving import StreamPart
from esops.stores.base import EventStore

_HIGHEST = (1 << 31) - 1


class _There(NamedTuple):
    """How many events the store has of a stream, in relation to an archived piece of it."""

    before: int
    at_previous: int
    inside: int
    at_next: int
    after: int


class OtherRuns:
    """The other sealed runs of the log that a run is of. A context manager."""

    def __init__(
        self,
        run: Run,
        manifest: Manifest,
        log: LogRuns,
        requested: frozenset[str],
        *,
        oldest_first: bool = False,
    ) -> None:
        """Reads the lists of streams of the log's runs. Raises Damaged, Missing, Unavailable, and
        Refused where a run has one of these streams and nothing tells whether it is of this log.

        `oldest_first`: the pieces of a stream have to come in that order; otherwise the newest is
        the first of them.
        """
        self._run, self._manifest, self._log = run, manifest, log
        self._oldest_first = oldest_first
        self._runs, self._own = log.runs, log.place_of(run)
        self._next: set[int] = set()
        self._pieces = StreamPieces(run, manifest, log, requested)

    @property
    def to_restore_next(self) -> list[str]:
        """The runs that hold the rest of streams that were looked at, in the order in which they
        have to be restored.
        """
        return self._named(self._next)

    @property
    def in_other_archives(self) -> list[Run]:
        """The runs in other archives that hold one of these streams."""
        runs = [self._runs[number][0] for number in sorted(self._pieces.holding)]
        return [run for run in runs if run.repository.address != self._run.repository.address]

    def _named(self, numbers: set[int]) -> list[str]:
        ordered = sorted(numbers, reverse=not self._oldest_first)
        return [self._runs[number][0].name for number in ordered]

    def conflicts(self, digests: Sequence[Digest], store: EventStore) -> dict[StreamKey, Refused]:
        """Why streams of the run cannot come back as they were: a newer run has other content of
        them, or versions would be missing next to what the store has.
        """
        found = self.outdated(digests)
        there = _counted(digests, store, archived=self._manifest.part != "head")
        for digest, counts in zip(digests, there, strict=True):
            refused = self._gap(digest, counts, store)
            if refused is not None:
                found.setdefault(digest.key, refused)
        if not self._oldest_first:
            suspects = [
                digest
                for digest, counts in zip(digests, there, strict=True)
                if counts.inside < digest.events
                and (counts.before or counts.after)
                and digest.key not in found
                and self._may_be_moved(digest)
            ]
            found |= self._out_of_order(suspects, store)
        return found

    def _may_be_moved(self, digest: Digest) -> bool:
        """Whether the store may have events of a stream at other positions than archived ones."""
        if not self._log.at_home:  # nobody notes that
            return True
        numbers = {piece.number for piece in self._pieces.of(digest)} | {self._own}
        return any(self._runs[each][0].renumbered for each in numbers if each < len(self._runs))

    def _out_of_order(
        self, digests: Sequence[Digest], store: EventStore
    ) -> dict[StreamKey, Refused]:
        found: dict[StreamKey, Refused] = {}
        if not digests:
            return found
        others = misplaced(self._run, self._manifest, digests, store)
        for digest in digests:
            other = others.get(digest.key)
            if other is not None:
                side = "behind" if other.older else "in front of"
                found[digest.key] = Refused(
                    f"stream {digest.stream} would be out of order: version {other.version} is at "
                    f"position {other.number} of store {store.name}, and what would come back at "
                    f"position {other.first} belongs {side} it",
                    hint=f"The stream was not written. {self._in_order(digest, other)}",
                )
        return found

    def _in_order(self, digest: Digest, other: Misplaced) -> str:
        """How events come back behind, or in front of, others that are at new positions."""
        if other.older and self._manifest.part != "head":
            return (
                "Its older events got new positions by --renumber: restore this run with "
                "--renumber, too."
            )
        same = [
            self._runs[piece.number][0]
            for piece in self._pieces.of(digest)
            if piece.number < self._own
            and piece.first <= digest.last_version
            and piece.last >= digest.first_version
        ]
        if not same or other.older:
            return "Read all of it with the archive as a store."
        named = self._log.named(same[0])
        return f"Its events were at other positions before: esops archive restore {named}."

    def _gap(self, digest: Digest, there: _There, store: EventStore) -> Refused | None:
        low, high = digest.first_version, digest.last_version
        pieces = self._pieces.of(digest)
        older = {piece.number for piece in pieces if piece.first < low}
        newer = {piece.number for piece in pieces if piece.last > high}
        head = self._manifest.part == "head"
        if there.inside < digest.events:
            if not head and not (there.before or there.inside or there.after):
                first = older if self._oldest_first else newer
                if first:
                    side = "begins before" if self._oldest_first else "continues behind"
                    return self._refused(
                        f"stream {digest.stream} {side} versions {low} to {high}, and store "
                        f"{store.name} has no event of the stream",
                        first,
                    )
            elif not there.at_next and (there.after or head):
                begins = "begins later" if there.after else "is not alive"
                return self._refused(
                    f"stream {digest.stream} {begins} in store {store.name}, and what comes back "
                    f"ends at version {high}: there would be a gap",
                    newer,
                )
            if there.before and not there.at_previous:
                return self._refused(
                    f"stream {digest.stream} ends earlier in store {store.name}, and what comes "
                    f"back begins at version {low}: there would be a gap",
                    older,
                    oldest_first=True,
                )
        if not head:
            rest = newer if self._oldest_first else older
            if not (there.after if self._oldest_first else there.before):
                self._next |= {each for each in rest if self._runs[each][1].part != "head"}
        return None

    def _refused(
        self,
        message: str,
        others: set[int],
        *,
        oldest_first: bool | None = None,
    ) -> Refused:
        if others:
            down = not (self._oldest_first if oldest_first is None else oldest_first)
            numbers = sorted({*others, self._own}, reverse=down)
            order = ", then ".join(
                self._log.named(self._runs[number][0] if number < len(self._runs) else self._run)
                for number in numbers
            )
            hint = f"The stream was not written. Restore its runs in this order: {order}."
        elif not self._log.at_home:
            hint = self._only_whole()
        else:
            hint = (
                "The stream was not written, and no other run of the archives has these versions. "
                "Read all of it with the archive as a store."
            )
        return Refused(message, hint=hint)

    def _only_whole(self) -> str:
        return (
            f"The stream was not written. Its newer events are in other runs, or in "
            f"{self._log.home} itself: read all of it with the archive as a store, or restore the "
            f"run into {self._log.home}."
        )

    def unfit(self, digests: Sequence[Digest], store: EventStore) -> dict[StreamKey, Refused]:
        """Why streams of the run cannot be appended to a store of another kind: a newer run has
        other content of them, or they continue behind what would be there, in a newer run or in
        their own store. Raises Unavailable where that cannot be asked.
        """
        with self._log.opened_home(self._manifest) as home:
            behind = [StreamPart(each.key, each.last_version + 1, _HIGHEST) for each in digests]
            alive = (
                [0] * len(digests)
                if home is None
                else home.many_streams.count_parts(behind, archived=True)
            )
        continuing = {
            digest.key: Refused(
                f"stream {digest.stream} continues behind version {digest.last_version}, which "
                f"store {store.name} would not show: it would look complete",
                hint=self._only_whole(),
            )
            for digest, events in zip(digests, alive, strict=True)
            if self._manifest.part == "head"
            or events
            or any(piece.last > digest.last_version for piece in self._pieces.of(digest))
        }
        return continuing | self.outdated(digests)

    def outdated(self, digests: Sequence[Digest]) -> dict[StreamKey, Refused]:
        """The streams of which a newer run has other content in the same versions."""
        suspects: dict[int, dict[StreamKey, Digest]] = {}
        for digest in digests:
            for piece in self._pieces.of(digest):
                overlap = piece.first <= digest.last_version and piece.last >= digest.first_version
                if piece.number > self._own and overlap and piece.sha256 != digest.sha256.hex():
                    suspects.setdefault(piece.number, {})[digest.key] = digest
        found: dict[StreamKey, Refused] = {}
        # What the newest run says comes last, and stays.
        for number, streams in sorted(suspects.items()):
            other = self._runs[number][0]
            for key, what in self._differences(number, [*streams]):
                found[key] = Refused(
                    f"run {self._run.name} is outdated: the newer run {other.name} has other "
                    f"content of stream {key.stream}, {what}",
                    hint="The stream was not written. Restore the newer run instead: "
                    f"esops archive restore {self._log.named(other)}",
                )
        return found

    def _differences(
        self, number: int, keys: Sequence[StreamKey]
    ) -> Iterator[tuple[StreamKey, str]]:
        names = frozenset(key.stream for key in keys)
        both = (
            by_stream(only(batch, keys) for batch in events_of_streams(run, manifest, names))
            for run, manifest in ((self._run, self._manifest), self._runs[number])
        )
        for (key, own), (other_key, other) in zip(*both, strict=True):
            if key != other_key:
                raise Damaged(f"{self._runs[number][0].name}: its streams are not in their order")
            what = _difference(own, other)
            if what is not None:
                yield key, what

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pieces.close()


def _counted(digests: Sequence[Digest], store: EventStore, *, archived: bool) -> list[_There]:
    parts = [
        StreamPart(digest.key, low, high)
        for digest in digests
        for low, high in (
            (0, digest.first_version - 1),
            (digest.first_version - 1, digest.first_version - 1),
            (digest.first_version, digest.last_version),
            (digest.last_version + 1, digest.last_version + 1),
            (digest.last_version + 1, _HIGHEST),
        )
    ]
    counts = iter(store.many_streams.count_parts(parts, archived=archived))
    return [_There(*five) for five in zip(*[counts] * 5, strict=True)]


def _difference(own: Iterator[pa.RecordBatch], other: Iterator[pa.RecordBatch]) -> str | None:
    """The first version that both have and that differs, but for where it is in the log."""
    theirs = chain.from_iterable(map(by_version, other))
    ahead: tuple[int, Mapping[str, Any]] | None = next(theirs, None)
    for version, values in chain.from_iterable(map(by_version, own)):
        while ahead is not None and ahead[0] < version:
            ahead = next(theirs, None)
        if ahead is None:
            return None
        if ahead[0] == version:
            different = [
                name
                for name, value in values.items()
                if name not in PLACE and name in ahead[1] and ahead[1][name] != value
            ]
            if different:
                return f"version {version} in {', '.join(different)}"
    return None
