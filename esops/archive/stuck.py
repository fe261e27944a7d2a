"""Streams that an earlier run has archived and could not remove, and that are still the same.

Rows elsewhere refer to their events, for example. Each run would export them again, and could not
remove them again. So they are left out: where the store has them as a sealed run does, and a trial
of the removal, which is rolled back, is refused for a reason that lasts. Where nothing refuses it
any more, they are selected like all others.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from esops.archive.checkpoint_guard import needed_streams
from esops.archive.compare import RowReader, exported
from esops.archive.heads import Part
from esops.archive.remove import ArchivedStream, Remover
from esops.archive_format.disk_map import DiskMap
from esops.archive_format.hashes import Digest, digests
from esops.archive_format.runs import Run
from esops.errors import EsopsError
from esops.events import StreamKey
from esops.settings import PolicySettings
from esops.stores.archiving import RemovalStrategy
from esops.stores.base import EventStore, require

if TYPE_CHECKING:
    from esops.stores.archive.own_runs import SealedRun

_STREAMS_AT_ONCE = 500


class StuckStream(NamedTuple):
    """A stream that is in a sealed run as it is, and that cannot leave the store."""

    key: StreamKey
    run: str
    why: str
    lasting: bool
    """Whether it takes a change of the database, as against a processor that will move on."""

    @property
    def reason(self) -> str:
        """For an operator."""
        return f"run {self.run} has it already, unchanged, and it cannot be removed: {self.why}"


@dataclass(frozen=True)
class Attempt:
    """How a policy would remove streams from its store."""

    store: EventStore
    policy: PolicySettings
    strategy: RemovalStrategy
    before_each: Callable[[], None] = lambda: None
    """Is called before each transaction, and may raise to stop."""
    strict: bool = True
    """Whether a trial that the database does not allow at all is an error."""

    def refused(self, run: SealedRun, streams: Sequence[Digest]) -> dict[StreamKey, str]:
        """Why archived streams could not leave the store, where a trial of it says so."""
        head = run[1].part == "head"
        remover = Remover(self.store, self.strategy, self.policy, head, self.before_each)
        try:
            return remover.refused(self._rows(run, streams))
        except EsopsError:
            if self.strict:
                raise
            return {}  # a plan needs no right to remove

    def _rows(self, run: SealedRun, streams: Sequence[Digest]) -> Iterator[ArchivedStream]:
        events = RowReader(exported(self.store, streams, run[1]))
        for digest in streams:
            rows = events.next(digest.events)
            yield ArchivedStream(digest, rows)
            deque(rows, 0)


class StuckStreams:
    """The streams of a store that earlier runs have left there. A context manager."""

    def __init__(
        self, attempt: Attempt, runs: Sequence[SealedRun], found: Callable[[StuckStream], None]
    ) -> None:
        """`runs` are the store's sealed ones, the oldest first; `found` is called for each stream
        that is left out. Raises Damaged, Missing, Unavailable.
        """
        self._attempt, self._found = attempt, found
        archiving = require(attempt.store, attempt.store.archiving, "archiving")
        columns = set(archiving.extra_columns())
        # A run without a column that the store has got since does not have the events as they are.
        self._runs = [
            each for each in runs if columns <= {*each[1].columns} and _left_some(each[0])
        ]
        self._before = DiskMap()
        for number, (run, manifest) in enumerate(self._runs):
            for digest, _ in run.streams(manifest):
                self._before.put(*digest.key, pickle.dumps((number, digest)))

    def without(self, parts: Iterator[Part]) -> Iterator[Part]:
        """The parts, but for those of stuck streams."""
        if not self._runs:
            yield from parts
            return
        needed = needed_streams(self._attempt.store)
        while group := list(islice(parts, _STREAMS_AT_ONCE)):
            stuck = self._stuck(group, needed)
            for part in group:
                if part.info.key in stuck:
                    self._found(stuck[part.info.key])
                else:
                    yield part

    def _stuck(
        self, group: Iterable[Part], needed: dict[StreamKey, str]
    ) -> dict[StreamKey, StuckStream]:
        by_run: dict[int, list[Digest]] = {}
        for part in group:
            noted = self._before.get(*part.info.key)
            if noted is None:
                continue
            number, digest = pickle.loads(noted)  # noqa: S301 - packed above
            if digest.last_version == part.last_version:
                by_run.setdefault(number, []).append(digest)
        found: dict[StreamKey, StuckStream] = {}
        for number, archived in by_run.items():
            sealed = self._runs[number]
            there = exported(self._attempt.store, archived, sealed[1])
            now = {each.key: each for each in digests(there)}
            same = [each for each in archived if now.get(each.key) == each]
            kept = {each.key: needed[each.key] for each in same if each.key in needed}
            refused = self._attempt.refused(sealed, [each for each in same if each.key not in kept])
            for reasons, lasting in ((kept, False), (refused, True)):
                for key, why in reasons.items():
                    found[key] = StuckStream(key, sealed[0].name, why, lasting)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._before.close()


def _left_some(run: Run) -> bool:
    """Whether a run has tried to remove its streams, and not all of them have gone."""
    if run.read("removal.json") is None:
        return False
    done = run.read("done.json")
    return done is None or bool(done.get("left_alone"))
