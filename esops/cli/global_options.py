"""The options that work with every command, before its name or after it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from esops.cli.completion import complete_store
from esops.cli.help import GLOBAL_PANEL
from esops.cli.option_groups import option_group, option_names, with_flat_options

if TYPE_CHECKING:
    from esops.term import GlobalOptions

_META = "esops.global"


def _option(*names: str, **more: Any) -> Any:
    return typer.Option(*names, show_default=False, **more)


@option_group(panel=GLOBAL_PANEL)
class GivenGlobals:
    """What was given on the command line; None is what was not. The names end with _, since a
    command may have an option of its own by the name.
    """

    config_: Annotated[
        str | None,
        _option(
            "-c",
            "--config",
            metavar="FILE",
            help="The configuration; else ESOPS_CONFIG, or esops.toml here or in a parent.",
        ),
    ] = None
    store_: Annotated[
        str | None,
        _option(
            "-s",
            "--store",
            metavar="NAME",
            help="The store to use, where the configuration has several.",
            autocompletion=complete_store,
        ),
    ] = None
    output_: Annotated[
        Literal["table", "json", "ndjson", "csv"] | None,
        _option("--output", help="The format of the result."),
    ] = None
    output_file_: Annotated[
        str | None,
        _option(
            "-o",
            "--output-file",
            metavar="FILE",
            help="Write the result to a file, whole or not at all.",
        ),
    ] = None
    quiet_: Annotated[
        bool | None,
        _option("-q", "--quiet", help="Write only results and errors.", is_flag=True),
    ] = None
    verbose_: Annotated[
        bool | None, _option("-v", "--verbose", help="Show more of the log.", is_flag=True)
    ] = None
    debug_: Annotated[
        bool | None, _option("--debug", help="Show all of the log, and tracebacks.", is_flag=True)
    ] = None
    log_format_: Annotated[
        Literal["console", "json"] | None,
        _option("--log-format", help="The format of the log."),
    ] = None
    no_color_: Annotated[
        bool | None, _option("--no-color", help="Write without colour.", is_flag=True)
    ] = None

    def settings(self) -> GlobalOptions:
        """The same for the output and the command, with the defaults."""
        from esops import term

        return term.GlobalOptions(
            config=Path(self.config_) if self.config_ else None,
            store=self.store_,
            output=self.output_,
            output_file=None if self.output_file_ is None else Path(self.output_file_),
            quiet=bool(self.quiet_),
            verbose=bool(self.verbose_),
            debug=bool(self.debug_),
            log_format=self.log_format_ or "console",
            color=not self.no_color_,
        )


def _declared(given: GivenGlobals) -> None:
    """What Typer makes the parameters of."""


@functools.cache
def _parameters() -> tuple[Any, ...]:
    """Made once, and shared by all commands: making some ten for each of them is half of what
    `esops --help` takes.
    """
    app = typer.Typer(add_completion=False)
    app.command()(with_flat_options(_declared))
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
    given = {name: context.params.pop(name, None) for name in option_names(GivenGlobals)}
    kept = context.find_root().meta.setdefault(_META, {})
    kept.update({name: value for name, value in given.items() if value is not None})


def global_values(context: typer.Context) -> GivenGlobals:
    """What was given on the command line."""
    return GivenGlobals(**context.find_root().meta.get(_META, {}))
