"""What differs by the kind of a projection: who makes the plan, and who carries it out."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from esops.config import Config
from esops.rebuild import planning
from esops.rebuild.options import Options
from esops.rebuild.outcome import Reporter
from esops.rebuild.plan import RebuildPlan
from esops.rebuild.request import Operator
from esops.rebuild.steps import Rebuild
from esops.rebuild.target import Target
from esops.rebuild.variants.external import plan as external_plan
from esops.rebuild.variants.external.work import ExternalRebuild
from esops.running.work import Reader
from esops.stores.base import EventStore


def make_plan(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
) -> RebuildPlan:
    """The plan of a blue-green rebuild. Raises UsageError or Refused where it cannot be done."""
    external = target.settings.kind == "external"
    make = external_plan.make_plan if external else planning.make_plan
    return make(config, target, options, store, connection)


def open_rebuild(
    target: Target,
    store: EventStore,
    reporter: Reporter,
    stop: Callable[[], bool],
    read: Reader = lambda *_: None,
    connection: psycopg.Connection | None = None,
) -> Rebuild:
    """A blue-green rebuild, which holds the projection's lock, on a connection that becomes its own
    or on a new one. Raises Busy.
    """
    kind = ExternalRebuild if target.settings.kind == "external" else Rebuild
    return kind(target, store, reporter, stop, read, connection)


class OperatorReporter:
    """Reports one projection's rebuild to an operator: a Reporter."""

    def __init__(self, operator: Operator, projection: str) -> None:
        """Everything is reported under the projection's name."""
        self._operator, self._projection = operator, projection

    def say(self, text: str) -> None:
        """See Reporter."""
        self._operator.message(self._projection, text)

    def progress(self, done: int, total: int | None) -> None:
        """See Reporter."""
        self._operator.progress(self._projection, done, total)

    def doing(self, what: str, *, paused: bool = False) -> None:
        """See Reporter."""
        self._operator.doing(self._projection, what, paused=paused)
