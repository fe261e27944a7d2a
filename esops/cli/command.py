"""Commands and command groups: their help is ours, and each takes the global options."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from esops.cli.global_options import add_global_options, keep_global_values
from esops.cli.help import PlainHelp
from esops.cli.recorded import exit_code_of, recorded, refusals


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
    """A command. What it writes is recorded, where it is one that writes."""

    def invoke(self, ctx: Any) -> Any:
        """Call the function."""
        keep_global_values(ctx)
        with recorded(ctx) as record, refusals(ctx, record):
            result = super().invoke(ctx)
            if record is not None:
                record.exit_code = exit_code_of(result)
            return result


class CommandGroup(_TakesGlobalOptions, TyperGroup):
    """A command group. Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's form
        """The names."""
        return list(self.commands)
