"""What `esops schema list` and `show` write."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from esops.wording import count

if TYPE_CHECKING:
    from esops.schema.history import TypeHistory
    from esops.schema.inventory import Inventory
    from esops.term import Output

_SENTENCES = 20
_SHAPES = 40
"""Shapes of which the fields are shown."""
_CHANGE_COLUMNS = (
    "kind", "path", "position", "stream", "version", "recorded_at", "category", "previous", "new",
)  # fmt: skip


def inventory(output: Output, found: Inventory) -> None:
    """All types, in the format that was asked for."""
    from esops.schema.documents import VERSION_COLUMNS, list_document, version_rows

    match output.format("table", "json", "ndjson", "csv"):
        case "json":
            output.json(list_document(found))
        case "ndjson":
            output.ndjson(list_document(found)["types"])
        case "csv":
            output.csv(version_rows(found), VERSION_COLUMNS)
        case _:
            _versions(output, found, "Types of events, with their versions and shapes")
            _summary(output, found)


def history(output: Output, found: TypeHistory) -> None:
    """One type, in the format that was asked for."""
    document = found.as_dict()
    match output.format("table", "json", "ndjson", "csv"):
        case "json":
            output.json(document)
        case "ndjson":
            output.ndjson(document["changes"])
        case "csv":
            output.csv(map(_change, document["changes"]), _CHANGE_COLUMNS)
        case _:
            _versions(output, found.inventory, f"Shapes of {found.base}", one=True)
            _fields(output, found.inventory)
            if document["changes"]:
                _changes(output, document["changes"])
            _summary(output, found.inventory)
            _name_streams(output, found.inventory)


def _name_streams(output: Output, found: Inventory) -> None:
    """How to see the streams that are counted, with the oldest shape as the example."""
    for type_ in found.ordered():
        for version in type_.ordered():
            if version.open_streams and type_.superseded(version):
                command = f"esops schema show {type_.base} --shape {version.shape.hash}"
                output.say(f"The open streams with a shape: {command}", "dim")
                return


def _versions(output: Output, found: Inventory, title: str, *, one: bool = False) -> None:
    """`one`: all are of the type that was asked for."""
    from esops.schema.documents import version_rows

    rows = version_rows(found)
    names = ["type", "category", "version", "shape", "events", "bytes", "first_at", "last_at",
             "open_streams"]  # fmt: skip
    if one:
        names.remove("type")
    if not any(row["version"] for row in rows):
        names.remove("version")
    kinds = _kinds(found)
    for row in rows:
        row["shape"] += kinds.get(row["shape"], "")
    if all(row["stored_type"] == row["type"] for row in rows):
        drop = ["bytes", "first_at", "category", "last_at", "version"]
    else:
        names.insert(names.index("category") + 1, "stored_type")
        drop = ["bytes", "first_at", "category", "version", "last_at"]
    cells = [[_minutes(row[name]) for name in names] for row in rows]
    output.table(title, names, cells, drop=drop)


def _kinds(found: Inventory) -> dict[str, str]:
    """What stands behind the hash of a shape without fields, such as (binary)."""
    from esops.schema.shape_fields import short_kind

    shapes = {v.shape for type_ in found.types.values() for v in type_.versions.values()}
    return {each.hash: f" ({kind})" for each in shapes if (kind := short_kind(each))}


def _fields(output: Output, found: Inventory) -> None:
    from esops.schema.shape_fields import fields_of_shapes

    several = len(found.types) > 1
    rows = [
        [*([type_.category] if several else []), each.hash, each.like or "-", each.fields]
        for type_ in found.ordered()
        if not type_.names.everything
        for each in fields_of_shapes(type_)
    ]
    if not rows:
        return
    names = [*(["category"] if several else []), "shape", "like", "fields"]
    title = "Fields of each shape; of one that is like another, what differs"
    output.table(title, names, rows[:_SHAPES], drop=[], wrap=["fields"], apart=True)
    if len(rows) > _SHAPES:
        output.line(f"and {len(rows) - _SHAPES:,} more shapes (--output json)")


def _changes(output: Output, changes: list[dict[str, Any]]) -> None:
    several = len({each["category"] for each in changes}) > 1
    names = ["kind", "path", "previous", "new", "position", "stream", "version", "recorded_at"]
    if several:
        names.insert(0, "category")
    rows = [[_minutes(row[name]) for name in names] for row in map(_change, changes)]
    output.table(
        "Changes, each at its first event",
        names,
        rows,
        apart=True,
        drop=["version", "recorded_at", "previous", "new"],
    )


def _change(change: dict[str, Any]) -> dict[str, Any]:
    """A change with what was before and after it in columns of their own."""
    detail = change["detail"]
    before, after = detail.get("previous"), detail.get("new")
    if change["kind"] == "values" and before is None:
        before, after = count(detail["values_before"], "value"), "another one"
    return {**change, "previous": _joined(before), "new": _joined(after)}


def _joined(value: Any) -> Any:
    return (", ".join(value) or "-") if isinstance(value, list) else value


def _summary(output: Output, found: Inventory) -> None:
    from esops.schema.forecast import closing_note, sentences

    output.line()
    for type_ in found.ordered():
        if type_.names.everything:
            output.line(
                f"{type_.base} has too many shapes to tell apart; all of them are counted as one."
            )
        elif type_.maps:
            output.line(
                f"{type_.base}: the names of members at {', '.join(type_.maps)} count as data, "
                "since there are very many."
            )
        if type_.fields_left_out:
            output.line(f"{type_.base} has too many fields to tell the changes of all of them.")
    said = list(sentences(found))
    for sentence in said[:_SENTENCES]:
        output.line(f"{sentence}.")
    if len(said) > _SENTENCES:
        output.line(f"and {len(said) - _SENTENCES:,} more old versions (--output json)")
    output.line(closing_note(found))
    shapes = sum(len(each.versions) for each in found.types.values())
    output.line(
        f"{count(found.events, 'event')} of {count(len(found.types), 'type')} with "
        f"{count(shapes, 'version or shape', 'versions and shapes')}"
    )


def _minutes(value: Any) -> Any:
    """A time without its seconds; anything else as it is."""
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else value
