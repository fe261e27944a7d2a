r"""The rebuild from Python. `esops rebuild` parses, calls this and prints.

    from pathlib import Path
    from esops.config import load_config
    from esops.rebuild.api import RebuildRequest, plan, rebuild

    config = load_config(Path("esops.toml"))
    for each in plan(config, ["cart_summary"]):  # changes nothing
        print("\n".join(each.lines()))
    [outcome] = rebuild(config, ["cart_summary"], RebuildRequest(max_rate=5000))
    print(outcome.state, outcome.to_version, outcome.events)

`stop` pauses a rebuild, which then raises Stopped and can be resumed; an Operator follows
it:

    rebuild(config, ["cart_summary"], RebuildRequest(action="resume"), stop=event.is_set)

Switching, rolling back and retiring afterwards are in `esops.rebuild.lifecycle`, pausing and
limiting from another process in `esops.running.control`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from esops.actions import current
from esops.config import Config
from esops.errors import UsageError
from esops.postgres.connection import connect
from esops.projections.arithmetic import kept_arithmetic
from esops.rebuild.by_kind import OperatorReporter, make_plan, open_rebuild
from esops.rebuild.hooks import check_executables
from esops.rebuild.outcome import Outcome, RebuildsFailed
from esops.rebuild.request import Action, AnyPlan, Operator, RebuildRequest
from esops.rebuild.several import SeveralRebuilds
from esops.rebuild.target import Target, resolve
from esops.rebuild.variants import in_place_plan
from esops.rebuild.variants.in_place import InPlaceRebuild
from esops.rebuild.variants.in_place_plan import InPlacePlan
from esops.stores import open_store
from esops.stores.base import EventStore

__all__ = [
    "Action",
    "AnyPlan",
    "Operator",
    "Outcome",
    "RebuildRequest",
    "RebuildsFailed",
    "plan",
    "rebuild",
]

Stop = Callable[[], bool]
_SILENT = Operator()
_DEFAULT = RebuildRequest()


def rebuild(
    config: Config,
    names: Sequence[str] = (),
    request: RebuildRequest = _DEFAULT,
    *,
    operator: Operator = _SILENT,
    stop: Stop = lambda: False,
) -> list[Outcome]:
    """Rebuild projections, or resume or abort their unfinished rebuilds, as the request says.

    `names` may be left out where the configuration has only one projection. Several projections
    are built from one read of the events.

    Returns an outcome for each projection. `Outcome.findings` is True where nothing was switched
    because too many rows differ, or where a hook failed after the switch.

    Raises UsageError for what cannot be done; Busy while another process rebuilds the projection;
    Stopped where it was paused; Refused where going on could lose data or serve wrong data; and
    RebuildsFailed where some of several did not finish.
    """
    names = _checked(config, names, request)
    current.concerns(*names)
    with kept_arithmetic():
        if len(names) > 1:
            return SeveralRebuilds(config, names, request, operator, stop).run()
        with _opened(config, names[0], request) as one:
            return [one.run(operator, stop)]


def plan(
    config: Config, names: Sequence[str] = (), request: RebuildRequest = _DEFAULT
) -> list[AnyPlan]:
    """The plans of what `rebuild` would do. Changes nothing.

    Raises UsageError, Refused or Unavailable where the rebuild could not begin.
    """
    names = _checked(config, names, request)
    with kept_arithmetic():
        if len(names) > 1:
            return list(SeveralRebuilds(config, names, request, _SILENT, lambda: False).plans())
        with _opened(config, names[0], request) as one:
            return [one.plan()]


def _checked(config: Config, names: Sequence[str], request: RebuildRequest) -> list[str]:
    """The projections, after a look at what the configuration says of them."""
    selected = _selected(config, names)
    request.check_live([config.projection(name).live for name in selected])
    # To abort, none of them is needed.
    for name in selected if request.action != "abort" else ():
        check_executables(config.projection(name), name, config.directory)
    return selected


def _selected(config: Config, names: Sequence[str]) -> list[str]:
    known = list(config.projections)
    if names or len(known) == 1:
        return list(names) or known
    raise UsageError(
        f"{config.path}: name the projection to rebuild",
        hint="There is: " + (", ".join(known) or "none") + ".",
    )


@dataclass(frozen=True)
class _BlueGreen:
    """A rebuild beside the version that serves."""

    config: Config
    target: Target
    store: EventStore
    connection: psycopg.Connection
    request: RebuildRequest

    def plan(self) -> AnyPlan:
        return make_plan(
            self.config, self.target, self.request.options, self.store, self.connection
        )

    def run(self, operator: Operator, stop: Stop) -> Outcome:
        request = self.request
        reporter = OperatorReporter(operator, self.target.name)
        # The plan is made on the rebuild's own connection: it has read the catalogue by then.
        with open_rebuild(
            self.target, self.store, reporter, stop, connection=self.connection
        ) as work:
            if request.action == "abort":
                work.check_unfinished()
                operator.confirm_abort([self.target.name])
                return work.abort()
            if request.action == "resume":
                return work.resume(request.given)
            work.check_none_unfinished()
            # Made with the lock held: nobody else builds the version that the plan names.
            made = make_plan(self.config, self.target, request.options, self.store, self.connection)
            operator.planned(made)
            return work.begin(made, request.options)


@dataclass(frozen=True)
class _InPlace:
    """A rebuild of the tables that serve."""

    config: Config
    target: Target
    store: EventStore
    connection: psycopg.Connection
    request: RebuildRequest

    def plan(self) -> InPlacePlan:
        return in_place_plan.make_plan(
            self.config, self.target, self.request.options, self.store, self.connection
        )

    def run(self, operator: Operator, stop: Stop) -> Outcome:
        request = self.request
        if request.action == "begin":
            made = self.plan()
            operator.planned(made)
            operator.confirm_in_place(made)
        reporter = OperatorReporter(operator, self.target.name)
        with InPlaceRebuild(
            self.target, self.store, reporter, stop, connection=self.connection
        ) as work:
            if request.action == "abort":
                return work.abort()
            if request.action == "resume":
                return work.resume(request.given)
            return work.begin_in_place(request.options)


@dataclass(frozen=True)
class _InServer:
    """A rebuild of a projection that runs inside its store."""

    config: Config
    name: str
    store: EventStore
    request: RebuildRequest

    def plan(self) -> AnyPlan:
        from esops.rebuild.variants.server.plan import make_plan

        return make_plan(self.config, self.name, self.store, self.request.options)

    def run(self, operator: Operator, stop: Stop) -> Outcome:
        # Imported where it is needed: other rebuilds do without the client of EventStoreDB.
        from esops.rebuild.variants.server.plan import make_plan
        from esops.rebuild.variants.server.work import ServerRebuild

        store, request = self.store, self.request
        reporter = OperatorReporter(operator, self.name)
        work = ServerRebuild(self.config, self.name, store, reporter, stop)
        if request.action == "abort":
            work.check_unfinished()
            operator.confirm_abort([self.name])
            current.in_store(self.config, self.name)
            return work.abort()
        if request.action == "resume":
            current.in_store(self.config, self.name)
            return work.resume(request.given)
        made = make_plan(self.config, self.name, store, request.options)
        operator.planned(made)
        current.in_store(self.config, self.name)
        return work.begin(made, request.options)


@contextmanager
def _opened(
    config: Config, name: str, request: RebuildRequest
) -> Iterator[_BlueGreen | _InPlace | _InServer]:
    """One projection's rebuild, with its store and the read model's database open."""
    settings = config.projection(name)
    if settings.kind in {"server", "external"} and request.in_place:
        who = "its store" if settings.kind == "server" else "the application"
        raise UsageError(
            f"{name} cannot be rebuilt in place, because {who} builds it", hint="Add --blue-green."
        )
    if settings.kind in {"server", "external"} and request.accept_code:
        raise UsageError(
            f"--accept-code has no effect: the code of {name} is not run by esops",
            hint="Leave out --accept-code.",
        )
    if settings.kind == "server":
        with open_store(*config.store(request.store or settings.store)) as store:
            yield _InServer(config, name, store, request)
        return
    with connect(config.readmodel_of(name).dsn, f"plan {name}") as connection:
        target = resolve(config, name, request.store, connection)
        with open_store(target.store_name, config.store(target.store_name)[1]) as store:
            if request.in_place:
                yield _InPlace(config, target, store, connection, request)
            else:
                yield _BlueGreen(config, target, store, connection, request)
