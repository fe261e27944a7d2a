"""`esops run`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import app, command, current_output
from esops.cli.options import projection_names
from esops.cli.shared import stop_on_signals

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from esops.config import Config
    from esops.health.listening import HealthPort
    from esops.running.host import Host
    from esops.term import Output


@command(app)
def run(
    context: typer.Context,
    projections: Annotated[
        list[str] | None, projection_names("The projections. Default: all.")
    ] = None,
    *,
    until_caught_up: Annotated[
        bool,
        typer.Option(
            "--until-caught-up",
            help="Stop when all versions contain what was settled at the start.",
        ),
    ] = False,
    health: Annotated[
        str | None,
        typer.Option(
            "--health",
            metavar="[HOST:]PORT",
            help="Answer /livez and /readyz over HTTP: on this machine only, unless a host is "
            "named.",
        ),
    ] = None,
) -> int:
    """Keep read models fresh: follow every version that is not retired, until stopped.

    esops run
    esops run cart_summary --until-caught-up
    esops run --health 9180

    Exit code 1 when an event came late, at a number that a version had passed as dead, or when
    readers read something else than the version that serves.
    """
    from esops.cli.run_chores import Chores
    from esops.cli.run_reports import RunReports
    from esops.config import load_config
    from esops.running.host import Host

    output = current_output(context, talks=False)
    config = load_config(output.settings.config)
    host = Host(config, projections or [], output.settings, until_caught_up)
    listener = None if health is None else _listener(output, health)
    output.say("following; stop with Ctrl-C or SIGTERM" if not until_caught_up else "catching up")
    reports = RunReports(config, host.names)
    chores = Chores(output, config, host.names, reports)
    stop = stop_on_signals()
    with reports, _health(config, host, stop, listener):
        host.run(stop, chores.do, reports.look_again)
    if until_caught_up:
        _conclude(output, host, projections or [], stopped=stop.is_set())
    else:
        _say_end(output, host, stopped=stop.is_set())
    return host.exit_code or int(chores.look_at_everything())


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
    for name, former in host.live.renamed.items() if host.exit_code == 0 else ():
        raise UsageError(
            f"nothing follows {name}: the registry knows it as {former}",
            hint=remedy(former, name),
        )
    # Without names, projections that are not built yet are none of this command's business, as long
    # as there is any other.
    if host.exit_code == 0 and host.live.unbuilt and (named or not host.followed_any):
        names = sorted(host.live.unbuilt)
        raise UsageError(
            f"nothing is built yet of {', '.join(names)}",
            hint=f"Build {'it' if len(names) == 1 else 'them'} with: esops rebuild "
            f"{' '.join(names)} --blue-green",
        )
