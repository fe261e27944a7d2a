"""What `--help` looks like: examples first, then what the command does, then options in groups.

In plain text, without rich, whose import takes longer than all else.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from typer.core import TyperGroup

GLOBAL_PANEL = "Options that work everywhere"
_LONGEST_SUMMARY = 90


class ListedCommands(Mapping[str, Any]):
    """Commands by their names that know what each does before it is made."""

    @abstractmethod
    def listed(self) -> Iterable[tuple[str, str]]:
        """The commands and what each does."""


class PlainHelp:
    """Help in plain text: examples first, then what the command does, then options in groups.

    Examples are written in the docstring of a command: a paragraph whose first line begins with
    `esops `, each line one example that can be pasted. A line that ends with a backslash continues
    in the next one. The first example runs the command itself with the arguments that most people
    need; a group's (given to `group`) runs the command of it that most people need. It does not
    matter where in the docstring the paragraph stands. `tests/unit/test_help.py` checks that all
    have an example, and that the examples parse.
    """

    help: str | None

    def listed(self) -> Iterable[tuple[str, str]]:
        """A group's commands and what each does, as its help lists them."""
        commands: Mapping[str, Any] = getattr(self, "commands", {})
        if isinstance(commands, ListedCommands):
            return commands.listed()
        return ((name, summary(each.help)) for name, each in commands.items() if not each.hidden)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, then the other paragraphs of the docstring."""
        lines = examples(ctx.command.help)
        if lines:
            formatter.write("\nExample:\n")
            for line in lines:
                formatter.write(f"  {line}\n")
        for paragraph in _paragraphs(ctx.command.help):
            if not paragraph.startswith("esops "):
                formatter.write("\n")
                # The docstring is wrapped for the code; help is as wide as the terminal.
                formatter.write_text(" ".join(paragraph.split()))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options by their groups, those that work everywhere last; then the
        commands.
        """
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in ctx.command.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panel = getattr(parameter, "rich_help_panel", None)
                panel = panel or (
                    "Arguments" if parameter.param_type_name == "argument" else "Options"
                )
                groups.setdefault(panel, []).append(record)
        # Last, since they are the same everywhere and nobody looks for them first.
        everywhere = groups.pop(GLOBAL_PANEL, None)
        if isinstance(self, TyperGroup):
            groups = {"Commands": list(self.listed())} | groups
        if everywhere:
            groups[GLOBAL_PANEL] = everywhere
        for panel, records in groups.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def _paragraphs(text: str | None) -> list[str]:
    return [each.strip() for each in inspect.cleandoc(text or "").split("\n\n") if each.strip()]


def examples(text: str | None) -> list[str]:
    """The lines of a docstring's examples, as they are written."""
    return [
        line.strip()
        for paragraph in _paragraphs(text)
        if paragraph.startswith("esops ")
        for line in paragraph.splitlines()
    ]


def summary(text: str | None) -> str:
    """The first paragraph of a docstring that is not an example, on one line."""
    prose = [each for each in _paragraphs(text) if not each.startswith("esops ")]
    line = " ".join(prose[0].split()) if prose else ""
    return line if len(line) <= _LONGEST_SUMMARY else line[: _LONGEST_SUMMARY - 1] + "…"
