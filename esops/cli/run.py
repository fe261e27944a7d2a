"""`esops run`."""

from __future__ import annotations

import time
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING

import typer

from esops.cli.app import app, command, current_output
from esops.cli.completion import complete_projection
from esops.cli.shared import stop_on_signals

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from esops.config import Config
    from esops.health.listening import HealthPort
    from esops.running.host import Host
    from esops.term import Output

_LOOK_EVERY = 60.0
"""Seconds between two looks for events that came late, and at what readers read."""
_NAMES_AT_ONCE = 2
"""Projections of which one look asks what readers read: some ten statements for each."""


@command(app)
def run(
    context: typer.Context,
    projections: list[str] | None = typer.Argument(
        None, help="The projections. Default: all.", autocompletion=complete_projection
    ),
    until_caught_up: bool = typer.Option(
        False,
        "--until-caught-up",
        help="Stop when all versions contain what was settled at the start.",
    ),
    health: str | None = typer.Option(
        None,
        "--health",
        metavar="[HOST:]PORT",
        help="Answer /livez and /readyz over HTTP: on this machine only, unless a host is named.",
    ),
) -> int:
    """Keep read models fresh: follow every version that is not retired, until stopped.

    esops run
    esops run cart_summary --until-caught-up
    esops run --health 9180

    Exit code 1 when an event came late, at a number that a version had passed as dead, or when
    readers read something else than the version that serves.
    """
    import structlog

    from esops.cli.run_reports import RunReports
    from esops.config import load_config
    from esops.health.late import missed_by
    from esops.health.serving import something_else
    from esops.rebuild.lifecycle import retire_due
    from esops.running.host import Host

    output = current_output(context, talks=False)
    config = load_config(output.settings.config)
    host = Host(config, projections or [], output.settings, until_caught_up)
    listener = None if health is None else _listener(output, health)
    output.say("following; stop with Ctrl-C or SIGTERM" if not until_caught_up else "catching up")

    # The host knows nothing of rebuilds; what is due after one is passed in.
    def retire(names: Sequence[str]) -> None:
        for version in retire_due(config, names):
            output.say(f"{version.projection}: retired v{version.version}, as --retire-after asked")

    log = structlog.get_logger("esops.run")
    said: set[str] = set()
    reports = RunReports(config, host.names)
    in_turn = cycle(host.names)
    looked = time.monotonic()

    def look_for_late_events() -> bool:
        found = missed_by(config, host.names)
        for each in found:
            if each.in_words() not in said:
                said.add(each.in_words())
                log.error(each.in_words(), hint=each.remedy)
        return bool(found)

    def look_at_names(names: Sequence[str]) -> bool:
        found = something_else(config, names)
        for each in found:
            text = f"{each.projection} {each}"
            if text not in said:
                said.add(text)
                log.error(text, hint=each.fix)
        return bool(found)

    def chores(names: Sequence[str]) -> None:
        nonlocal looked
        retire(names)
        reports.look_again()
        reports.stalls.look(names)
        if time.monotonic() - looked > _LOOK_EVERY:
            looked = time.monotonic()
            look_for_late_events()
            look_at_names([next(in_turn) for _ in names[:_NAMES_AT_ONCE]])
            reports.stalls.look_at_processors(names)

    stop = stop_on_signals()
    with reports, _health(config, host, stop, listener):
        host.run(stop, chores, reports.look_again)
    if until_caught_up:
        _conclude(output, host, projections or [], stopped=stop.is_set())
    else:
        _say_end(output, host, stopped=stop.is_set())
    return host.exit_code or int(look_for_late_events() | look_at_names(host.names))


def _listener(output: Output, health: str) -> HealthPort:
    """Take the port, before anything is started. Raises UsageError."""
    from esops.health.listening import HealthPort

    listener = HealthPort("--health", health)
    output.say(f"health: http://{listener.address}/livez and /readyz")
    return listener


@contextmanager
def _health(
    config: Config, host: Host, stop: threading.Event, listener: HealthPort | None
) -> Iterator[None]:
    """Answer probes, if it was asked for, as long as the loop runs."""
    if listener is None:
        yield
        return
    from esops.health.probes import Probes

    probes = Probes(config, host, stop)
    probes.start()
    with listener.serving(probes.answers):
        yield


def _say_end(output: Output, host: Host, *, stopped: bool) -> None:
    """Say that it ended. Raises Unavailable where nobody can be asked what came late."""
    from esops.errors import Unavailable

    output.say("stopped by a signal" if stopped else "ended")
    if host.gave_up:
        raise Unavailable(
            "stopped while a database did not answer, so nobody knows whether an event came late",
            hint="`esops doctor` looks.",
        )


def _conclude(output: Output, host: Host, named: Sequence[str], *, stopped: bool) -> None:
    """Say how it ended. Raises where that is less than what was asked for."""
    from esops.errors import Stopped, UsageError
    from esops.readmodel.owners import remedy

    if host.ended:
        output.say(str(host.caught_up()))
    if stopped:
        raise Stopped(
            "stopped before all versions had caught up",
            hint="Run it again; each version continues from its checkpoint.",
        )
    for name, former in host.renamed.items() if host.exit_code == 0 else ():
        raise UsageError(
            f"nothing follows {name}: the registry knows it as {former}",
            hint=remedy(former, name),
        )
    # Without names, projections that are not built yet are none of this command's business, as long
    # as there is any other.
    if host.exit_code == 0 and host.unbuilt and (named or not host.followed_any):
        names = sorted(host.unbuilt)
        raise UsageError(
            f"nothing is built yet of {', '.join(names)}",
            hint=f"Build {'it' if len(names) == 1 else 'them'} with: esops rebuild "
            f"{' '.join(names)} --blue-green",
        )
