"""Limits on the load that work on a projection may cause: options of the command that starts the
work, and of the one that changes them.
"""

from __future__ import annotations

from typing import Any

import typer

_PANEL = "Limits (`projection throttle` changes them while it runs)"

MAX_RATE: Any = typer.Option(
    None,
    "--max-rate",
    min=1,
    metavar="EV_S",
    help="Apply at most EV_S events a second.",
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
    help="Wait while a replica of that server is more than N bytes behind.",
    rich_help_panel=_PANEL,
)
NICE: Any = typer.Option(
    None,
    "--nice",
    min=0,
    metavar="R",
    help="Rest R times as long as it works; 1 means half the speed.",
    rich_help_panel=_PANEL,
)
SNAPSHOT_WAIT: Any = typer.Option(
    None,
    "--snapshot-wait",
    metavar="D",
    help="Wait at most this long for readers whose snapshot is older than the rows to be served; "
    "default 60s.",
    rich_help_panel="Verification and switch",
)
DESPITE_SNAPSHOTS: Any = typer.Option(
    False,
    "--despite-snapshots",
    help="Switch although such readers see the read model without its newest rows.",
    rich_help_panel="Verification and switch",
)
CHANGED: Any = typer.Option(
    False,
    "--changed",
    help="Rebuild those that `esops plan` says need it, of the ones named or of all.",
)
LONGEST_SESSION: Any = typer.Option(
    None,
    "--longest-session",
    metavar="D",
    help="How long an instance of the application may take from loading a row to writing it, where "
    'it writes rows with each append (live = "inline"): rows that were made right are watched for '
    "as long. Default: 30s.",
)
