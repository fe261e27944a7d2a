"""What `esops status` shows at a terminal: a table for each kind of thing, and what there is to say
of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esops.health.status import Status
    from esops.term import Output


class _StatusTable(NamedTuple):
    """A table: its columns, and those that a narrow terminal leaves out, the least important
    first. Name, version and what is wrong stay at any width; the store of a processor, for
    example, can be found with --store.
    """

    title: str
    rows: list[dict[str, Any]]
    columns: list[str]
    drop: list[str]

    def shown(self) -> list[str]:
        """The columns that are there."""
        # What cannot be read says why; `detail` of a processor is more than a sentence.
        says_why = any(isinstance(row.get("detail"), str) for row in self.rows)
        return (
            [*self.columns, "detail"] if says_why and "detail" not in self.columns else self.columns
        )


def show(output: Output, found: Status) -> None:
    """Show everything that there is."""
    for section in _sections(found):
        if not section.rows:
            continue
        shown = section.shown()
        cells = [[row.get(column) for column in shown] for row in section.rows]
        output.table(section.title, shown, cells, drop=section.drop, wrap=["detail", "evidence"])
        for line in _beside(section.title, section.rows):
            output.line(line)
        if section.title == "projections":
            for line in _of_checks(found.checks):
                output.line(line)
        output.line()


def _sections(found: Status) -> Iterator[_StatusTable]:
    yield _StatusTable(
        "stores",
        found.stores,
        ["store", "backend", "layout", "head", "ok", "detail"],
        ["layout", "backend", "head"],
    )
    yield _processors(found)
    yield _projections(found)
    yield _StatusTable(
        "rebuilds",
        [_in_words(each) for each in found.rebuilds],
        ["rebuild", "projection", "state", "from_version", "to_version", "updated_at"],
        ["updated_at", "from_version"],
    )
    yield _StatusTable(
        "archives",
        found.archives,
        [
            *("archive", "policy", "run", "state", "streams", "events"),
            *("remove", "removed_events", "sealed_at"),
        ],
        ["streams", "events", "sealed_at", "policy", "removed_events"],
    )


def _processors(found: Status) -> _StatusTable:
    columns = ["store", "name", "position", "lag_events", "lag_time", "state"]
    if any(each["state"] == "paused" for each in found.processors):
        columns.append("evidence")  # why is in it
    return _StatusTable(
        "processors",
        _with_lag_time(found.processors),
        columns,
        ["state", "position", "lag_time", "store"],
    )


def _projections(found: Status) -> _StatusTable:
    from esops.cli.version_text import with_keeper

    columns = [
        *("projection", "version", "state", "position", "lag_events", "lag_time"),
        *("rows", "followed_by"),
    ]
    if any(each.get("dead_letters") for each in found.projections):
        columns.append("dead_letters")
    return _StatusTable(
        "projections",
        _with_lag_time(with_keeper(found.projections)),
        columns,
        ["rows", "position", "lag_time", "followed_by"],
    )


def _beside(title: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """What is said below a table: what is stalled and why, who paused what, and which rebuild waits
    to be resumed.
    """
    from esops.cli.version_text import asked
    from esops.health.stalls import Stall
    from esops.rebuild.under_way import in_words

    for row in rows:
        if row.get("stalled"):
            name = (
                row["name"] if title == "processors" else f"{row['projection']} v{row['version']}"
            )
            yield f"{name} {Stall(**row['stalled'])}"
    if title == "projections":
        # One row for each version; what is asked for is asked for of all of them.
        for name, row in {each["projection"]: each for each in rows}.items():
            if "paused" in row:
                yield from asked(name, row)
    elif title == "rebuilds":
        for row in rows:
            if row["unfinished"] and (text := in_words(row["unfinished"], row["projection"])):
                yield text


def _of_checks(checks: list[dict[str, Any]]) -> Iterator[str]:
    """What checks have found wrong in what serves."""
    from esops.health.checked import in_words

    for each in checks:
        if (said := in_words(each)) is not None:
            name = each["projection"]
            yield f"{name}: {said}: esops rebuild {name} --from-check {each['wrong_by']}"


def _with_lag_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the age of the oldest unread event as a person says it."""
    from esops.term import duration

    return [
        {**each, "lag_time": None if (lag := each.get("lag_seconds")) is None else duration(lag)}
        for each in rows
    ]


def _in_words(rebuild: dict[str, Any]) -> dict[str, Any]:
    """A rebuild whose blue is retired has switched; its own version is there."""
    if rebuild["state"] != "retired":
        return rebuild
    return {**rebuild, "state": f"switched; v{rebuild['from_version']} is retired"}
