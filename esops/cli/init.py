"""`esops init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esops.cli.app import app, command, current_output
from esops.cli.options import dry_run_option

if TYPE_CHECKING:
    from esops.init import Detection
    from esops.term import Output


@command(app)
def init(
    context: typer.Context,
    *,
    dsn: Annotated[
        str | None,
        typer.Option(
            "--dsn", metavar="DSN", help="A Postgres database, as any libpq string or URL."
        ),
    ] = None,
    uri: Annotated[
        str | None,
        typer.Option("--uri", metavar="URI", help="A node of EventStoreDB, as esdb://…"),
    ] = None,
    dry_run: Annotated[bool, dry_run_option("Print the configuration and write nothing.")] = False,
) -> int:
    """Look at a database or node, list its event stores, and write an esops.toml with comments.

    esops init --dsn service=shop
    esops init --uri "esdb://localhost:2113?tls=false"

    It writes esops.toml in this folder, or the file that --output-file names, and never overwrites
    a file that has any setting.

    Exit code 1 when it finds no event store; the file then shows how to describe a table of your
    own.
    """
    from esops.init import as_toml, detect
    from esops.term.result_file import ResultFile

    output = current_output(context)
    file = output.settings.output_file or Path("esops.toml")
    if not dry_run:
        # The file is the configuration; what is said about it goes to stdout.
        output.write_file_myself()
    address = _address(dsn, uri, file, dry_run=dry_run)
    # Checked before the database is looked at.
    written = None if dry_run else ResultFile(file)
    found = detect(address)
    text, stores = as_toml(found), _stores(found)
    if written is not None:
        with written:
            written.write(text)
    if output.as_json:
        output.json(
            {
                "file": None if dry_run else str(file),
                "stores": stores,
                "read_models": found.read_models,
                "unreadable": found.unreadable,
                "other_databases": found.others,
                "secret": found.secret,
                "config": text,
            }
        )
    elif dry_run:
        output.line(text)
    else:
        _report(output, found, stores, file)
    return 0 if stores else 1


def _address(dsn: str | None, uri: str | None, file: Path, *, dry_run: bool) -> str:
    """What to look at. Raises UsageError where it is not named once, or the file has settings."""
    from esops.errors import UsageError
    from esops.init import is_empty

    if (dsn is None) == (uri is None):
        raise UsageError(
            "name a database with --dsn or a node with --uri",
            hint='esops init --dsn "service=shop"',
        )
    if file.exists() and not dry_run and not is_empty(file):
        raise UsageError(
            f"{file} exists already, and init does not overwrite it",
            hint="Name another file with --output-file, or look with --dry-run.",
        )
    return dsn or uri or ""


def _stores(found: Detection) -> list[dict[str, Any]]:
    """The stores, under the documented field names."""
    stores: list[dict[str, Any]] = [
        {
            "layout": layout.name,
            "schema": layout.schema,
            "written_by": layout.version,
            "detail": dict(layout.detail),
        }
        for layout in found.layouts
    ]
    if found.is_node:
        # Of a node there is one note: its address, version and state.
        node = found.notes[0]
        stores.append({"layout": "eventstoredb", "schema": None, "written_by": node, "detail": {}})
    return stores


def _report(output: Output, found: Detection, stores: list[dict[str, Any]], file: Path) -> None:
    for store in stores:
        where = f" in schema {store['schema']}" if store["schema"] else ""
        output.line(f"found {store['layout']}{where} ({store['written_by']})")
    for table in found.read_models:
        who = ", ".join(found.written.get(table, ()))
        by = f" (the application writes it: {who})" if who else ""
        output.line(f"found a table that looks like a read model: {table}{by}")
    if not stores:
        output.line(f"found no event store that esops knows in database {found.database}")
        if found.others:
            output.line(f"If it is in another one: this server also has {', '.join(found.others)}.")
    output.line(f"wrote {file}")
    if found.secret:
        output.line(f"Set the environment variable {found.secret} before you run esops.")
    if not stores:
        output.line(
            f"Next: describe your table in {file.name} (the example that begins with #), then "
            "esops doctor"
        )
        return
    if found.unreadable:
        output.line(
            f"The role {found.role} may not read {', '.join(found.unreadable)}. As its owner, run "
            f"what this prints: esops doctor --grants {found.role}"
        )
    which = " --store NAME, with a name of esops.toml" if len(stores) > 1 else ""
    output.line(f"Next: esops doctor, and esops events --limit 5{which}")
