"""The limits of what work on a projection may take, as options of the command that begins it and of
the one that changes them.
"""

from __future__ import annotations

from typing import Any

import typer

_PANEL = "What it may take (to be changed while it runs by `projection throttle`)"

MAX_RATE: Any = typer.Option(
    None,
    "--max-rate",
    min=1,
    metavar="EV_S",
    help="At most so many events a second.",
    rich_help_panel=_PANEL,
)
MAX_LOAD: Any = typer.Option(
    None,
    "--max-load",
    min=0,
    metavar="N",
    help="Wait while more than N other sessions of the read model's server are active.",
    rich_help_panel=_PANEL,
)
MAX_LAG_BYTES: Any = typer.Option(
    None,
    "--max-lag-bytes",
    min=0,
    metavar="N",
    help="Wait while a replica of it is further behind.",
    rich_help_panel=_PANEL,
)
NICE: Any = typer.Option(
    None,
    "--nice",
    min=0,
    metavar="R",
    help="Rest R times as long as it works: 1 is half the speed.",
    rich_help_panel=_PANEL,
)
