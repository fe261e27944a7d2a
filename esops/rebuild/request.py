"""What can be asked of a rebuild, and who follows it and is asked before anything is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from esops.errors import UsageError
from esops.rebuild.guards import check_limit
from esops.rebuild.options import Options
from esops.rebuild.verification.result import check_max_diff

if TYPE_CHECKING:
    from esops.rebuild.variants.in_place_plan import InPlacePlan

Action = Literal["begin", "resume", "abort"]


class AnyPlan(Protocol):
    """The plan of a rebuild, whatever the kind of its projection."""

    def lines(self, *, statements: bool = True) -> list[str]:
        """The plan for a person: with every statement, or only the summary."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """The plan for a program, under the documented field names."""
        ...


@dataclass(frozen=True)
class RebuildRequest:
    """Everything that `esops rebuild` can be asked for.

    None means that nothing was asked for: a new rebuild takes the default (see Options), a resumed
    one keeps what it began with.
    """

    action: Action = "begin"
    in_place: bool = False
    """Empty the tables that serve and fill them again, instead of building green beside them."""
    store: str | None = None
    """The store to read from, instead of the one that the projection names."""
    switch: bool | None = None
    """False: build and verify green, and leave it standing by."""
    switch_lag: int | None = None
    """Switch when green is at most this many events behind."""
    compare: str | None = None
    """exact, columns, sample, counts or none."""
    max_diff: str | None = None
    """Switch although this many rows differ: "100", or "2.5%"."""
    max_dead_letters: str | None = None
    """Serve the version although this many events became dead letters: "100", or "2.5%"."""
    batch_size: int | None = None
    """At most this many events for each checkpoint."""
    workers: int | Literal["auto"] | None = None
    """How many processes load; `auto` measures how many are worth it, and so does None above
    a million events.
    """
    engine: str | None = None
    """Where the workers are: "local", or "dask://HOST:PORT"."""
    ranges: int | None = None
    """In place: replace the rows in this many ranges of keys, and empty nothing."""
    max_rate: float | None = None
    """Events a second."""
    max_load: int | None = None
    """Wait while the read model's server has more active sessions besides ours."""
    max_lag_bytes: int | None = None
    """Wait while a replica of that server is further behind."""
    nice: float | None = None
    """Rest this many times as long as it works."""
    postpone: bool | None = None
    """Keep up and wait with the switch for `projection switch-now`."""
    test_only: bool | None = None
    """Do everything but the switch, and drop green again."""
    without_archived: bool | None = None
    """Rebuild without events that were archived and removed, and that the store does not read."""
    accept_fewer: bool | None = None
    """Accept far fewer events than the version before was made of, or none, or no row."""
    accept_shortened: bool | None = None
    """Rebuild although streams have lost their first events: rows may lack what was in them."""
    accept_code: bool | None = None
    """Resume with other code than the rows so far were made by: they stay as they are."""
    snapshot_wait: timedelta | None = None
    """How long the switch waits for snapshots that are older than green's newest rows."""
    despite_snapshots: bool | None = None
    """Switch although there are such snapshots."""
    processor_stopped: bool | None = None
    """Hand over to the application's projector though its row does not say that it has stopped."""
    keep_blue: bool = False
    """Keep blue until it is retired; this is the default, too."""
    retire_after: timedelta | None = None
    """Let `esops run` drop blue this long after the switch."""

    def __post_init__(self) -> None:
        """Check what can be checked without a plan. Raises UsageError."""
        if self.in_place and (option := self._blue_green_option()):
            raise UsageError(
                f"{option} works only with --blue-green: a rebuild in place has nothing to compare "
                "and nothing to switch",
                hint=f"Add --blue-green, or leave out {option}.",
            )
        if self.accept_code and self.action != "resume":
            raise UsageError(
                "--accept-code works only with --resume", hint="Leave out --accept-code."
            )
        if self.ranges is not None and not self.in_place:
            raise UsageError(
                "--ranges works only for a rebuild in place", hint="Leave out --blue-green."
            )
        if bool(self.test_only) + (self.switch is False) + bool(self.postpone) > 1:
            raise UsageError("--test-only, --no-switch and --postpone cannot be used together")
        if self.keep_blue and self.retire_after is not None:
            raise UsageError("--keep-blue and --retire-after cannot be used together")
        check_max_diff(self.options.max_diff)
        check_limit(self.options.max_dead_letters)

    @property
    def given(self) -> Mapping[str, Any]:
        """The options that were asked for, by their names in Options."""
        asked: dict[str, Any] = {
            name: getattr(self, name, None) for name in Options.__dataclass_fields__
        }
        for name in ("retire_after", "snapshot_wait"):
            if asked[name] is not None:
                asked[name] = asked[name].total_seconds()
        given = {name: value for name, value in asked.items() if value is not None}
        # A number that was found once stays.
        if self.action == "resume" and self.workers == "auto":
            del given["workers"]
        # Of a resumed rebuild, it takes back what that began with.
        return {**given, "retire_after": None} if self.keep_blue else given

    @property
    def options(self) -> Options:
        """The options of a new rebuild."""
        return Options(**self.given)

    def check_live(self, live: Sequence[str]) -> None:
        """`live`: who keeps each of the projections fresh. Raises UsageError for an option that is
        about somebody else.
        """
        if self.processor_stopped and "app" not in live:
            raise UsageError(
                '--processor-stopped works only with live = "app": otherwise nothing is handed '
                "over to the application",
                hint="Leave out --processor-stopped.",
            )

    def check_several(self, names: Sequence[str]) -> None:
        """Raises UsageError for what only the rebuild of one projection can do."""
        if len(set(names)) < len(names):
            raise UsageError("a projection is named twice")
        if self.in_place:
            raise UsageError(
                "several projections can only be rebuilt blue-green", hint="Add --blue-green."
            )
        if self.workers or self.engine:
            raise UsageError(
                "--workers and --engine work for one projection only",
                hint="Rebuild the projections one after the other, or leave these options out.",
            )

    def _blue_green_option(self) -> str | None:
        """An option that was given and needs a green beside the version that serves."""
        given = {
            "--no-switch": self.switch is False,
            "--postpone": self.postpone,
            "--test-only": self.test_only,
            "--keep-blue": self.keep_blue,
            "--retire-after": self.retire_after,
            "--processor-stopped": self.processor_stopped,
            "--snapshot-wait": self.snapshot_wait,
            "--despite-snapshots": self.despite_snapshots,
            "--max-diff": self.max_diff,
            "--compare": self.compare,
            "--workers": self.workers,
            "--engine": self.engine,
        }
        return next((name for name, value in given.items() if value), None)


class Operator:
    """Follows rebuilds, and is asked before anything is dropped.

    This one is silent and agrees to everything. Override what you want to know; the methods are
    called by several threads where several projections are rebuilt.
    """

    def planned(self, plan: AnyPlan) -> None:
        """A new rebuild is about to begin, by this plan."""

    def message(self, projection: str, text: str) -> None:
        """A state is reached, or something is waited for."""

    def progress(self, projection: str, done: int, total: int | None) -> None:
        """`done` events of `total` (None: unknown; else it may be an estimate) are applied to
        green. Not all of them need be committed yet.
        """

    def doing(self, projection: str, what: str, *, paused: bool = False) -> None:
        """Something is done beside applying events, such as building an index; what stands behind a
        comma says how far it is. Where `paused`, its time counts for no rate: something is waited
        for, or events are sorted into files. An empty text says that it is over.
        """

    def confirm_abort(self, projections: Sequence[str]) -> None:
        """Unfinished rebuilds are about to be ended. Raise to refuse."""

    def confirm_in_place(self, plan: InPlacePlan) -> None:
        """Tables that serve are about to be changed in place. Raise to refuse."""
