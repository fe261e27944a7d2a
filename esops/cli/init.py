"""`esops init`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from esops.cli.app import app, command, current_output


@command(app)
def init(
    context: typer.Context,
    dsn: str | None = typer.Option(
        None, "--dsn", metavar="DSN", help="A database, as any libpq string or URL."
    ),
    uri: str | None = typer.Option(
        None, "--uri", metavar="URI", help="A node of EventStoreDB, as esdb://…"
    ),
    file: Path = typer.Option(
        Path("esops.toml"),
        "--file",
        metavar="FILE",
        help="Where to write; never over what is there.",
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Print the configuration and write nothing."
    ),
) -> int:
    """Look at a database or node, say which event stores are there, and write a commented
    esops.toml.

    esops init --dsn service=shop
    esops init --uri "esdb://localhost:2113?tls=false"

    Exits with 1 where no event store was found; what it writes then shows how to describe a table
    of your own.
    """
    from esops import init as detect
    from esops.errors import UsageError

    output = current_output(context)
    if (dsn is None) == (uri is None):
        raise UsageError(
            "name a database with --dsn or a node with --uri",
            hint='esops init --dsn "service=shop"',
        )
    if file.exists() and not dry_run:
        raise UsageError(
            f"{file} is there already, and is not written over",
            hint="Name another with --file, or look with --dry-run.",
        )
    found = detect.look(dsn or uri or "")
    text = detect.configuration(found)
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
        stores.append(
            {"layout": "eventstoredb", "schema": None, "written_by": found.notes[0], "detail": {}}
        )
    if not dry_run:
        file.write_text(text, encoding="utf-8")
    if output.as_json:
        output.json(
            {
                "file": None if dry_run else str(file),
                "stores": stores,
                "read_models": found.read_models,
                "secret": found.secret,
                "config": text,
            }
        )
    elif dry_run:
        output.line(text)
    else:
        for store in stores:
            where = f" in schema {store['schema']}" if store["schema"] else ""
            output.line(f"found {store['layout']}{where} ({store['written_by']})")
        for table in found.read_models:
            output.line(f"found a table that looks like a read model: {table}")
        if not stores:
            output.line("found no event store that esops knows")
        output.line(
            f"wrote {file}" + (f"; set {found.secret} before esops runs" if found.secret else "")
        )
        output.line("Next: esops doctor, and esops events --limit 5")
    return 0 if stores else 1
