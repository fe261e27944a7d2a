"""The fold of one partition after the other, which sees columns and types as if the events came in
the log's order.

What rows showed while they were folded in memory, before the spill began, is known; what they show
for the first time after that is not. There a partition would see it too early or too late: the load
begins again without a spill.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from operator import attrgetter

from esops.events import Position, RecordedEvent
from esops.postgres.connection import translated
from esops.projections.definition import FoldDefinition
from esops.projections.kinds.fold import Fold
from esops.readmodel.spills import Spill
from esops.readmodel.types import widest
from esops.running.spill.owner import SpillOwner
from esops.running.spill.shown import Types, alike

_POSITION = attrgetter("position")


class UnlikeLoad(Exception):
    """Rows that are folded by partitions may differ from those of a load in memory."""


@dataclass(frozen=True, slots=True)
class PartitionSoFar:
    """What the rows of a partition have shown where a commit came in its middle."""

    spill: str
    partition: int
    done: int
    types: Types
    ahead: list[tuple[Position, Types]]


class PartitionFolder(SpillOwner):
    """An Applier that folds the partitions of its spill."""

    _ahead: list[tuple[Position, Types]]
    """What rows will have shown, and after which event, that this partition has not reached."""
    _last: Types
    """What they have shown after all of these."""
    _noted: Types
    """The widest that rows have shown, of those that are in the table and will be there anyway."""
    _kept: PartitionSoFar | None = None
    _strayed = False
    """Whether a shard's rows may differ from those of one load."""

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        self._noted = self._checkpoint.version.value_types

    def _open_projector(self, spill: Spill, *, empty: bool) -> None:
        """A fold without any rows, which has seen of columns and types what there was before the
        partition's next event. Raises UnlikeLoad.
        """
        assert self._projector is not None
        assert self._files is not None
        assert spill.until is not None
        shown, kept = self._files.shown, self._kept
        types, ahead = shown.before, shown.up_to(spill.until)
        self._last = ahead[-1][1] if ahead else types
        self._noted = widest(self._last, self._noted)
        if kept is not None and (kept.spill, kept.partition, kept.done) == (
            spill.spill,
            spill.partition,
            spill.done,
        ):
            types, ahead = kept.types, list(kept.ahead)
        elif spill.done and self._noted != widest(self._last, {}):
            # Nobody knows which of these types are this partition's own.
            self._stray()
            types, ahead = self._noted, []
        self._ahead = ahead
        self._tables = replace(self._tables, empty=empty, value_types=types)
        self._projector.close()
        assert isinstance(self._work.definition, FoldDefinition)
        self._projector = Fold(self._work.definition, self._tables)

    def _apply_as_logged(self, events: list[RecordedEvent]) -> None:
        """Apply events of a partition; between them, take in what other rows have shown. Raises
        UnlikeLoad.
        """
        while self._ahead:
            here = bisect_right(events, self._ahead[0][0], key=_POSITION)
            if here == len(events):
                break
            if here:
                self._apply(events[:here])
                events = events[here:]
            self._pass_change()
        self._apply(events)

    def _pass_all_changes(self) -> None:
        """Take in what is left, after the last event of a partition. Raises UnlikeLoad."""
        while self._ahead:
            self._pass_change()

    def _pass_change(self) -> None:
        fold = self._fold_of_partition
        self._check_changes(fold)
        _, types = self._ahead.pop(0)
        fold.assume(widest(types, fold.value_types) if self._strayed else types)

    def _check_changes(self, fold: Fold) -> None:
        """Raises UnlikeLoad where a row has shown something that it had not shown in memory."""
        assert self._files is not None
        known = {position for position, _ in self._files.shown.changes}
        # What an event shows that becomes a dead letter does not count.
        poisoned = any(position in self._skipped for position in known)
        if poisoned or any(position not in known for position, _ in fold.shown):
            self._stray()

    def _check_shown(self) -> None:
        """Raises UnlikeLoad where rows have shown what others saw too early or too late."""
        fold = self._fold_of_partition
        if self._ahead:
            self._check_changes(fold)
        elif fold.late or not alike(fold.value_types, self._noted):
            self._stray()
        assert self._files is not None
        self._checkpoint.others_show = self._noted
        self._checkpoint.others_late = self._strayed or self._files.shown.late

    def _keep_shown(self, after: Spill) -> None:
        """Keep what the rows have shown that were just written, for the rest of the partition."""
        types = dict(self._fold_of_partition.value_types)
        self._noted = widest(self._noted, types)
        kept = PartitionSoFar(after.spill, after.partition, after.done, types, list(self._ahead))
        self._kept = kept if after.done else None

    @property
    def _fold_of_partition(self) -> Fold:
        assert isinstance(self._projector, Fold)
        return self._projector

    def _stray(self) -> None:
        """Raises UnlikeLoad, except in a shard: whoever looks at all shards decides about it."""
        self._strayed = True
        if self._work.shard is None:
            raise UnlikeLoad

    def _load_unspilled(self) -> None:
        """Begin the load again without a spill, also after a kill."""
        self._say(
            "rows have columns, or types of values, that no row had shown when the spill began, "
            "and a fold may see that: the load begins again without spilling, which is slower. "
            "A larger cache, or each column in every row from the first event on, avoids that"
        )
        spill, files = self._spill, self._files
        assert spill is not None
        with translated():
            self._start_again(unspilled=True)
        self._without, self._kept, self._strayed = True, None, False
        self._spill = self._files = self._writer = None
        if files is not None:
            files.remove()
        with translated():
            self._load_checkpoint()
