"""The options that work with every command, before its name or after it."""

from __future__ import annotations

import functools
from typing import Any, Literal

import typer

from esops.cli.completion import complete_store
from esops.cli.help import GLOBAL_PANEL

_META = "esops.global"


def _option(*names: str, **more: Any) -> Any:
    return typer.Option(None, *names, rich_help_panel=GLOBAL_PANEL, show_default=False, **more)


def _declared(
    config_: str | None = _option(
        "-c",
        "--config",
        metavar="FILE",
        help="The configuration; else ESOPS_CONFIG, or esops.toml here or in a parent.",
    ),
    store_: str | None = _option(
        "-s",
        "--store",
        metavar="NAME",
        help="The store to use, where the configuration has several.",
        autocompletion=complete_store,
    ),
    output_: Literal["table", "json", "ndjson", "csv"] | None = _option(
        "--output", help="The format of the result."
    ),
    output_file_: str | None = _option(
        "-o",
        "--output-file",
        metavar="FILE",
        help="Write the result to a file, whole or not at all.",
    ),
    quiet_: bool | None = _option(
        "-q", "--quiet", help="Write only results and errors.", is_flag=True
    ),
    verbose_: bool | None = _option("-v", "--verbose", help="Show more of the log.", is_flag=True),
    debug_: bool | None = _option(
        "--debug", help="Show all of the log, and tracebacks.", is_flag=True
    ),
    log_format_: Literal["console", "json"] | None = _option(
        "--log-format", help="The format of the log."
    ),
    no_color_: bool | None = _option("--no-color", help="Write without colour.", is_flag=True),
) -> None:
    """What Typer makes the parameters of."""


@functools.cache
def _parameters() -> tuple[Any, ...]:
    """Made once, and shared by all commands: making some ten for each of them is half of what
    `esops --help` takes.
    """
    app = typer.Typer(add_completion=False)
    app.command()(_declared)
    return tuple(typer.main.get_command(app).params)


def add_global_options(own: list[Any]) -> None:
    """Append them to a command's parameters, all but those whose names the command uses itself."""
    taken = {name for parameter in own for name in parameter.opts}
    own += [each for each in _parameters() if taken.isdisjoint(each.opts)]


def keep_global_values(context: Any) -> None:
    """Remove the values from what a command is called with.

    The root, the group and the command are called in this order. The last value that was given
    counts.
    """
    given = {each.name: context.params.pop(each.name, None) for each in _parameters()}
    kept = context.find_root().meta.setdefault(_META, {})
    kept.update({name: value for name, value in given.items() if value is not None})


def global_values(context: typer.Context) -> dict[str, Any]:
    """What was given on the command line, by the parameters' names."""
    given: dict[str, Any] = context.find_root().meta.get(_META, {})
    return given
