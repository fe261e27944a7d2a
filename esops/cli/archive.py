"""`esops archive`: move old streams out of the hot store, into an archive that is verified before
anything is removed. Each command, or few that belong together, is a module of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import group
from esops.cli.completion import complete_archive, complete_run

if TYPE_CHECKING:
    from esops.archive_format.runs import Catalog
    from esops.term import Output

archive = group(
    "archive",
    "Move old streams out of the hot store into an archive; verify, query and restore them.",
    "esops archive plan old-carts",
    "esops archive run old-carts",
)

ArchiveName = Annotated[
    str | None,
    typer.Option(
        "--archive",
        metavar="NAME",
        help="The archive. Needed if the configuration has several.",
        autocompletion=complete_archive,
    ),
]
RunName = Annotated[
    str,
    typer.Argument(
        help="The run's id, as `esops archive list` shows it.", autocompletion=complete_run
    ),
]


def catalog_of(output: Output, name: str | None) -> Catalog:
    """The runs of an archive. Raises UsageError."""
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog
    from esops.config import load_config

    config = load_config(output.settings.config)
    return Catalog(Repository(config.archive(name)[1]))
