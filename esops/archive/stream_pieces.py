"""Which other runs of a log hold a piece of the streams of one run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import chain
from typing import NamedTuple

import orjson

from esops.archive.archived_groups import events_of_streams
from esops.archive.compare import by_stream, by_version, only
from esops.archive.log_runs import LogRuns
from esops.archive_format.disk_map import DiskMap
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.archive_format.snapshots import is_snapshot
from esops.events import StreamKey


class StreamPiece(NamedTuple):
    """What another run has of a stream."""

    number: int
    """Of the run; the oldest has the lowest."""
    first: int
    last: int
    sha256: str
    first_at: int | None


class StreamPieces:
    """The pieces that other sealed runs of its log have of a run's streams, on disk. Close it."""

    def __init__(
        self, run: Run, manifest: Manifest, log: LogRuns, requested: frozenset[str]
    ) -> None:
        """Reads the lists of streams of the log's runs; `requested`: the only streams, if any.

        Raises Damaged, Missing, Unavailable, and Refused where a run has one of these streams and
        nothing tells whether it is of this log.
        """
        self._run, self._manifest, self._log = run, manifest, log
        self._runs, self._own = log.runs, log.place_of(run)
        self.holding: set[int] = set()
        """The numbers of the runs that have one of the streams."""
        self._kept = DiskMap()
        if len(self._runs) > 1 or log.doubtful:
            self._collect(requested)

    def _collect(self, requested: frozenset[str]) -> None:
        for digest, _ in self._run.streams(self._manifest):
            if not requested or digest.stream in requested:
                self._kept.put(*digest.key, b"[]")
        for number, (other, manifest) in enumerate(self._runs):
            if number == self._own:
                continue
            for digest, _ in other.streams(manifest):
                known = self._kept.get(*digest.key)
                if known is not None:
                    self.holding.add(number)
                    versions = digest.first_version, digest.last_version
                    piece = StreamPiece(number, *versions, digest.sha256.hex(), digest.first_at)
                    self._kept.put(*digest.key, orjson.dumps([*orjson.loads(known), [*piece]]))
        self._leave_out_other_streams(requested)
        for own in self._log.doubtful:
            for other, manifest in own.doubtful:
                streams = (digest for digest, _ in other.streams(manifest))
                if other.name != self._run.name and any(
                    self._kept.get(*digest.key) is not None for digest in streams
                ):
                    self._log.refuse_doubtful(own, (other, manifest))

    def _leave_out_other_streams(self, requested: frozenset[str]) -> None:
        """Of a name that was used again after its stream had left, the other stream is none of
        this one's pieces. Each has a first event of its own, at its own time.
        """
        first = self._manifest.first_version
        begun: dict[StreamKey, Digest] = {}
        for digest, _ in self._run.streams(self._manifest):
            if requested and digest.stream not in requested:
                continue
            times = {each.first_at for each in self.of(digest) if each.first == first}
            times |= {digest.first_at} if digest.first_version == first else set()
            if len(times) > 1 and None not in times and digest.first_at is not None:
                begun[digest.key] = digest
        if not begun:
            return
        starts = _starts(
            [
                self._runs[each]
                for each in sorted({*self.holding, self._own})
                if each < len(self._runs)
            ],
            begun,
            first,
        )
        for key, digest in begun.items():
            at = starts.get(key, [])
            if len(at) > 1:
                of_own = bisect_right(at, digest.first_at or 0)
                same = [
                    [*each]
                    for each in self.of(digest)
                    if each.first_at is None or bisect_right(at, each.first_at) == of_own
                ]
                self._kept.put(*key, orjson.dumps(same))

    def of(self, digest: Digest) -> list[StreamPiece]:
        """What other runs have of a stream."""
        found = self._kept.get(*digest.key)
        return [StreamPiece(*each) for each in orjson.loads(found)] if found else []

    def close(self) -> None:
        """Drop what is on disk."""
        self._kept.close()


def _starts(
    runs: Sequence[tuple[Run, Manifest]], keys: Collection[StreamKey], first: int
) -> dict[StreamKey, list[int]]:
    """By stream, when each of the streams of its name began, by the ids of their first events;
    without those of which a library has put a snapshot in the place of the first event.
    """
    found: dict[StreamKey, dict[str, int]] = {}
    names = frozenset(key.stream for key in keys)
    for run, manifest in runs:
        batches = events_of_streams(run, manifest, names)
        for key, own in by_stream(only(batch, [*keys]) for batch in batches):
            version, values = next(chain.from_iterable(map(by_version, own)))
            if version == first:
                at = 0 if is_snapshot(values["type"]) else values["recorded_at"]
                found.setdefault(key, {})[str(values["id"])] = at
    return {key: sorted(ids.values()) for key, ids in found.items() if 0 not in ids.values()}
