"""`esops archive query`: SQL over an archive."""

from __future__ import annotations

from typing import Annotated

import typer

from esops.cli import archive_text as text
from esops.cli.app import command, current_output
from esops.cli.archive import ArchiveName, archive, catalog_of
from esops.cli.completion import complete_run


@command(archive)
def query(
    context: typer.Context,
    statement: Annotated[str, typer.Argument(help="SQL over the views `events` and `streams`.")],
    *,
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Only these runs; can be repeated. Default: all.",
            autocompletion=complete_run,
        ),
    ] = None,
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            help="Leave out the events that cannot be read as JSON, and exit with 1 if there are "
            "any.",
        ),
    ] = False,
    archive: ArchiveName = None,
) -> int:
    r"""Run SQL over an archive, without restoring anything.

    The dialect is DuckDB's, with its JSON functions.

    esops archive query "SELECT type, count(*) FROM events GROUP BY type ORDER BY 2 DESC"
    esops archive query "SELECT stream, data->>'ProductId' FROM events WHERE category = 'cart'" \
    --output csv
    esops archive query "SELECT * FROM events WHERE type = 'order_placed'" -o orders.parquet

    A file whose name ends with .parquet is written as Parquet.
    """
    from esops.archive.query import answered, write_parquet
    from esops.wording import count

    output = current_output(context)
    catalog = catalog_of(output, archive)
    form = output.format("table", "json", "ndjson", "csv")
    file = output.settings.output_file
    if file is not None and file.suffix == ".parquet":
        output.write_file_myself()
        rows, left_out = write_parquet(
            catalog, statement, file, runs or (), skip_unreadable=skip_unreadable
        )
        output.say(f"{count(rows, 'row')} written to {file}")
    else:
        as_json = form in ("json", "ndjson")
        with answered(
            catalog, statement, runs or (), as_json=as_json, skip_unreadable=skip_unreadable
        ) as answer:
            left_out, names = answer.left_out, answer.columns
            if form == "table":
                output.table("", names, answer.rows)
            else:
                output.records((dict(zip(names, row, strict=True)) for row in answer.rows), names)
    if left_out.number:
        text.left_out(output, left_out)
    return int(left_out.number > 0)
