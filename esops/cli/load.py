"""The commands of the root: named here, in the order in which help lists them, and imported when
they are called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from typer.main import get_command

from esops.cli.app import app
from esops.cli.help import ListedCommands, summary


class RootCommand(NamedTuple):
    """A command or group of the root, before it is imported."""

    modules: tuple[str, ...]
    """The modules of esops.cli that make it."""
    help: str
    """What help says of it in the list of commands; its docstring says the same."""


_PROJECTION = ("projection", "serving", "renaming", "dead_letters", "check", "step", "trial")
_SCHEMA = (
    "schema",
    "schema_list",
    "schema_show",
    "schema_infer",
    "schema_check",
    "schema_contracts",
    "schema_diff",
    "schema_decode",
)
_ARCHIVE = (
    "archive",
    "archive_run",
    "archive_runs",
    "archive_restore",
    "archive_query",
    "archive_gc",
)
ROOT: Mapping[str, RootCommand] = {
    "init": RootCommand(
        ("init",),
        "Look at a database or node, list its event stores, and write an esops.toml with comments.",
    ),
    "doctor": RootCommand(
        ("doctor",), "Check that everything is in place that other commands rely on."
    ),
    "status": RootCommand(
        ("status",),
        "Show stores, their processors, versions of projections, rebuilds and archive runs.",
    ),
    "metrics": RootCommand(("metrics",), "Write what `esops status` shows as Prometheus metrics."),
    "serve": RootCommand(
        ("serve",),
        "Show stores, read models, rebuilds, audits and traces as pages in a browser.",
    ),
    "plan": RootCommand(
        ("plan",),
        "Show which projections differ from the version that serves, and what that takes.",
    ),
    "rebuild": RootCommand(
        ("rebuild",),
        "Rebuild a read model beside the one that serves, verify it, and switch in one "
        "transaction.",
    ),
    "run": RootCommand(
        ("run",), "Keep read models fresh: follow every version that is not retired, until stopped."
    ),
    "wait": RootCommand(
        ("wait",),
        "Wait until the versions that serve have taken in all events that are committed now.",
    ),
    "erase": RootCommand(
        ("erase",),
        "Erase a person's data from events and archives, and prove that nothing is left.",
    ),
    "history": RootCommand(
        ("history",), "Show who did what with esops here, and how it ended; the newest last."
    ),
    "mcp": RootCommand(
        ("mcp",),
        "Answer an assistant's questions over standard input and output (Model Context Protocol).",
    ),
    "docs": RootCommand(("docs",), "List the topics of the documentation, or show one."),
    "uninstall": RootCommand(
        ("uninstall",),
        "Remove from databases what esops has made there; what serves stays, as plain tables.",
    ),
    "projection": RootCommand(
        _PROJECTION, "The versions of read models: show them, switch, roll back, retire."
    ),
    "archive": RootCommand(
        _ARCHIVE,
        "Move old streams out of the hot store into an archive; verify, query and restore them.",
    ),
    "audit": RootCommand(
        ("audit",),
        "Find streams that are too long, look into them, and review how events are modelled.",
    ),
    "schema": RootCommand(
        _SCHEMA,
        "See which schemas events have had over the years, check them, and check code against "
        "them.",
    ),
    "trace": RootCommand(
        ("trace",),
        "Show what caused an event and what it caused: by correlation id, event or stream.",
    ),
    "events": RootCommand(
        ("events",),
        "Show events in the order of the log: lines at a terminal, NDJSON in a pipe.",
    ),
    "demo": RootCommand(
        ("demo",), "Run the guided tour: rebuild a live shop's read model under load."
    ),
}


class RootCommands(ListedCommands):
    """The commands by their names; each is imported and made when it is asked for."""

    def __init__(self) -> None:
        """Nothing is imported yet."""
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            import_modules(ROOT[name].modules)
            # Other groups may be there in part, where a module of theirs was imported by another.
            self._made[name] = get_command(app).commands[name]  # type: ignore[attr-defined]
        return self._made[name]

    def listed(self) -> Iterator[tuple[str, str]]:
        """The commands and what each does; none is imported for this."""
        return ((name, summary(each.help)) for name, each in ROOT.items())

    def __iter__(self) -> Iterator[str]:
        return iter(ROOT)

    def __len__(self) -> int:
        return len(ROOT)


def import_modules(modules: tuple[str, ...]) -> None:
    """Import modules of esops.cli, which brings their commands onto the root."""
    for module in modules:
        import_module(f"esops.cli.{module}")


def commands() -> None:
    """Import the modules of all commands."""
    for each in ROOT.values():
        import_modules(each.modules)
