"""Streams that an earlier run has archived and could not remove, and that are still the same.

Rows elsewhere refer to their events, for example. Each run would export them again, and could not
remove them again. So they are left out where the store has them as a sealed run does, and what
refused that is still there. Most of it is seen by looking. Where it is not, a run tries to remove a
short stream, and rolls that back; a plan does not, and a long stream would keep writers waiting.
Where nothing refuses it any more, they are selected like all others.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from esops.archive.checkpoint_guard import needed_streams
from esops.archive.compare import RowReader, exported
from esops.archive.heads import Part
from esops.archive.remover import ArchivedStream, Remover
from esops.archive_format.disk_map import DiskMap
from esops.archive_format.hashes import Digest, digests
from esops.archive_format.runs import Run
from esops.events import StreamKey
from esops.settings import PolicySettings
from esops.stores.archiving import RemovalStrategy
from esops.stores.base import EventStore, require

if TYPE_CHECKING:
    from esops.stores.archive.own_runs import SealedRun

_STREAMS_AT_ONCE = 500
_TRIED_AT_MOST = 1_000
"""Events of a stream: those of longer ones would be locked for too long."""
_TRIAL = timedelta(seconds=1)
"""How long a statement of a trial may wait or take."""
_LONG = "it is too long to be tried again: raise statement_timeout when that is fixed"


class _Why(NamedTuple):
    reason: str
    lasting: bool


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
    tries: bool = True
    """Whether it may try a removal, which locks rows for a moment; a plan only looks."""

    def refused(self, run: SealedRun, streams: Sequence[Digest]) -> dict[StreamKey, _Why]:
        """Why archived streams cannot leave the store, of those that still cannot."""
        head = run[1].part == "head"
        remover = Remover(self.store, self.strategy, self.policy, head, self.before_each)
        seen = remover.obstacles(streams)
        found = {key: _Why(reason, lasting=True) for key, reason in seen.items()}
        hidden = self._hidden(run[0])
        rest = [each for each in streams if each.key in hidden and each.key not in found]
        if not self.tries:
            return found | {each.key: _Why(hidden[each.key], lasting=True) for each in rest}
        short = [each for each in rest if each.events <= _TRIED_AT_MOST]
        for each in rest:
            if each.events > _TRIED_AT_MOST:
                found[each.key] = _Why(f"{hidden[each.key]} ({_LONG})", lasting=True)
        for tried in remover.refused(self._rows(run, short), _TRIAL) if short else ():
            if tried.reason is not None:
                found.setdefault(tried.part.key, _Why(tried.reason, tried.lasting))
        return found

    def _hidden(self, run: Run) -> dict[StreamKey, str]:
        """What kept streams in the store when the run was done and is not seen by looking: nothing
        where the policy gives a statement more time since.
        """
        removal, done = run.read("removal.json") or {}, run.read("done.json") or {}
        before = timedelta(seconds=removal.get("statement_timeout", 0))
        if before < self.policy.statement_timeout:
            return {}
        return {StreamKey(*key): reason for *key, reason in done.get("hidden", ())}

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
            free = [each for each in same if each.key not in kept]
            whys = {key: _Why(reason, lasting=False) for key, reason in kept.items()}
            whys |= self._attempt.refused(sealed, free) if free else {}
            for key, why in whys.items():
                found[key] = StuckStream(key, sealed[0].name, why.reason, why.lasting)
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
