"""Options and arguments that several commands have: their names, form and completion, once.

Where commands mean them for different things, each says so in its own help.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from esops.cli.completion import complete_projection, complete_stream

ProjectionName = Annotated[
    str, typer.Argument(help="The projection.", autocompletion=complete_projection)
]
StreamName = Annotated[
    str, typer.Argument(help="The name of the stream.", autocompletion=complete_stream)
]
EventId = Annotated[str, typer.Argument(help="The event's id.")]
Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="T",
        help="Look only at this tenant's events, where a store keeps those of several.",
        rich_help_panel="Options",
    ),
]
"""Among the other options, whatever group it is part of."""


def projection_names(help: str) -> Any:
    """Any number of projections."""
    return typer.Argument(help=help, autocompletion=complete_projection)


def yes_option(help: str = "Do not ask for confirmation.") -> Any:
    """Do without a question."""
    return typer.Option("-y", "--yes", help=help)


def dry_run_option(help: str = "Print the statements and change nothing.") -> Any:
    """Show what would be done."""
    return typer.Option("-n", "--dry-run", help=help)


def report_option(help: str) -> Any:
    """A page of what was found."""
    return typer.Option("--report", metavar="FILE.html", help=help)


def category_option(help: str = "Only streams of this category.") -> Any:
    """Streams of one category."""
    return typer.Option("--category", metavar="C", help=help)


def types_option(
    help: str = "Only events of this type; can be repeated.", metavar: str = "T"
) -> Any:
    """Events of some types."""
    return typer.Option("--type", metavar=metavar, help=help)


def since_option(help: str, metavar: str = "D") -> Any:
    """A time before now."""
    return typer.Option("--since", metavar=metavar, help=help)


def limit_option(help: str, min: int = 1) -> Any:
    """A bound on the number of events."""
    return typer.Option("--limit", min=min, metavar="N", help=help)


def keys_option(help: str) -> Any:
    """Rows by their keys."""
    return typer.Option("--keys", metavar="K,…", help=help)


def keys_from_option(help: str) -> Any:
    """Rows by the keys that a file has."""
    return typer.Option("--keys-from", metavar="FILE", help=help)


def streams_option(help: str) -> Any:
    """Some streams, in one text."""
    return typer.Option("--streams", metavar="S,…", help=help)


def max_dead_letters_option(help: str) -> Any:
    """How many events may be missing in what serves."""
    return typer.Option("--max-dead-letters", metavar="N|P%", help=help)


def accept_code_option(help: str) -> Any:
    """Take changed code for right."""
    return typer.Option("--accept-code", help=help)


def longest_session_option(help: str) -> Any:
    """The longest time between a load and a write of the application."""
    return typer.Option("--longest-session", metavar="D", help=help)


LongestSession = Annotated[
    str | None,
    longest_session_option(
        "How long an instance of the application may take from loading a row to writing it, where "
        'it writes rows with each append (live = "inline"): rows that were made right are watched '
        "for as long. Default: 30s."
    ),
]
