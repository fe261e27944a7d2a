"""Commands and command groups: their help is ours, and each takes the global options."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from esops.cli.global_options import add_global_options, keep_global_values
from esops.cli.help import PlainHelp


class _TakesGlobalOptions(PlainHelp):
    """What is called without the global options, whose values are kept."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        add_global_options(self.params)  # type: ignore[attr-defined] # of Typer's class

    def invoke(self, ctx: Any) -> Any:
        """Keep the values of the global options, and call the function or the command."""
        keep_global_values(ctx)
        return super().invoke(ctx)  # type: ignore[misc]


class Command(_TakesGlobalOptions, TyperCommand):
    """A command."""


class CommandGroup(_TakesGlobalOptions, TyperGroup):
    """A command group. Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's form
        """The names."""
        return list(self.commands)
