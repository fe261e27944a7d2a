"""Limits on the load that work on a projection may cause: options of the command that starts the
work, and of the one that changes them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.option_groups import option_group

if TYPE_CHECKING:
    from esops.running.throttle import Limits


def _finite(value: float | None) -> float | None:
    """A number that JSON has, since limits are kept as JSON."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


@option_group(panel="Limits (`projection throttle` changes them while it runs)")
class LimitOptions:
    """How much the work may burden the read model's server."""

    max_rate: Annotated[
        float | None,
        typer.Option(
            "--max-rate",
            min=1,
            metavar="EV_S",
            callback=_finite,
            help="Apply at most EV_S events a second.",
        ),
    ] = None
    max_load: Annotated[
        int | None,
        typer.Option(
            "--max-load",
            min=0,
            metavar="N",
            help="Wait while more than N other sessions of the read model's server are active.",
        ),
    ] = None
    max_lag_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-lag-bytes",
            min=0,
            metavar="N",
            help="Wait while a replica of that server is more than N bytes behind.",
        ),
    ] = None
    nice: Annotated[
        float | None,
        typer.Option(
            "--nice",
            min=0,
            metavar="R",
            callback=_finite,
            help="Rest R times as long as it works; 1 means half the speed.",
        ),
    ] = None

    def limits(self) -> Limits:
        """The same for the work."""
        from esops.running.throttle import Limits

        return Limits(self.max_rate, self.max_load, self.max_lag_bytes, self.nice)
