"""`esops schema show TYPE --shape HASH`: what it reads and what it writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esops.cli.shared import JobProgress
from esops.errors import UsageError
from esops.wording import count

if TYPE_CHECKING:
    from esops.cli.schema_inventory import InventoryOptions
    from esops.config import Config
    from esops.schema.one_shape import OneShape
    from esops.term import Output

_FIRST = 20
"""Streams that are shown unless all are wanted."""
_AT_ONCE = 10_000
"""Rows of a table that are in memory."""


@dataclass(frozen=True)
class AskedShape:
    """What was asked for."""

    type: str
    shape: str | None
    category: str | None
    options: InventoryOptions
    every: bool = False


def show_shape(
    output: Output, config: Config, asked: AskedShape, *, report: Path | None, show_values: bool
) -> None:
    """Show one shape. Raises UsageError where other options were given that do not go with it."""
    from esops.schema.one_shape import checked_hash, shape_of

    if asked.shape is None:
        raise UsageError("--all goes with --shape", hint="Name the shape whose streams you want.")
    for name, is_given in (("--report", report is not None), ("--show-values", show_values)):
        if is_given:
            raise UsageError(f"{name} does not go with --shape", hint=f"Leave {name} out.")
    given = checked_hash(asked.shape)
    rule = asked.options.rule(output, config)
    progress = JobProgress(output)
    try:
        with (
            asked.options.store(output, config) as store,
            shape_of(
                store,
                asked.type,
                given,
                rule,
                category=asked.category,
                progress=(
                    lambda done, total: progress.update("events", done, total),
                    lambda done, total: progress.update("events, for their streams", done, total),
                ),
            ) as found,
        ):
            progress.close()
            tenants = store.capabilities.tenants or store.capabilities.named_tenants
            _write(output, found, every=asked.every, tenants=tenants)
            short = found.short
    finally:
        progress.close()
    if short is not None:
        raise short


def _write(output: Output, found: OneShape, *, every: bool, tenants: bool) -> None:
    from esops.schema.one_shape import STREAM_COLUMNS

    names = [name for name in STREAM_COLUMNS if tenants or name != "tenant"]
    match output.format("table", "json", "ndjson", "csv"):
        case "json":
            output.json_with(found.document(), "streams", found.rows())
        case "ndjson":
            output.ndjson(found.rows())
        case "csv":
            output.csv(found.rows(), names)
        case _:
            _fields(output, found)
            _streams(output, found, names, every=every)


def _fields(output: Output, found: OneShape) -> None:
    newest = {each["path"]: each["newest_types"] for each in found.differences()}
    here = {each["path"]: each["types"] for each in found.fields()}
    columns = ["path", "types"]
    if newest:
        columns.append("in_newest_shape")
    rows = [
        (
            path,
            _joined(here.get(path, [])),
            _joined(newest[path]) if path in newest else "same",
        )[: len(columns)]
        for path in sorted(here.keys() | newest.keys())
    ]
    output.table(f"Fields of {found.base} shape {found.hash}", columns, rows, drop=())
    if newest:
        output.line(f"The newest shape of the type is {found.newest.shape.hash}.")
    else:
        output.line("This is the newest shape of the type.")


def _joined(types: Sequence[str]) -> str:
    return ", ".join(types) or "-"


def _streams(output: Output, found: OneShape, names: Sequence[str], *, every: bool) -> None:
    from esops.schema.forecast import closing_note

    total = found.streams.count
    title = f"Open streams with an event of this shape: {total:,}"
    rows = found.rows() if every else islice(found.rows(), _FIRST)
    for lot in _lots(rows):
        cells = [[_minutes(row.get(name)) for name in names] for row in lot]
        drop = ["category", "last_version", "last_at"]
        output.table(title, names, cells, drop=drop, apart=bool(title))
        title = ""
    if not every and total > _FIRST:
        output.line(f"and {total - _FIRST:,} more (--all)")
    output.line()
    events = sum(version.events for _, version in found.versions)
    have = f"{count(total, 'open stream has', 'open streams have')} it"
    output.line(
        f"{count(events, 'event')} of this shape; {have if total else 'no open stream has it'}"
    )
    output.line(closing_note(found.inventory))


def _lots(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Tables of bounded size."""
    following = iter(rows)
    for row in following:
        yield list(chain([row], islice(following, _AT_ONCE - 1)))


def _minutes(value: Any) -> Any:
    """A time without its seconds; anything else as it is."""
    from datetime import datetime

    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else value
