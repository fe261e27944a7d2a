"""`esops status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from esops.cli.app import app, command, current_output
from esops.cli.shared import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esops.health.status import Status
    from esops.term import Output


@command(app)
def status(
    context: typer.Context,
    watch: bool = typer.Option(
        False, "-w", "--watch", help="Refresh every two seconds, until stopped."
    ),
) -> int:
    """Show stores, their processors, versions of projections, rebuilds and archive runs.

    esops status
    esops status --watch

    Exit code 1 when a store warns of something, a version or a processor is stalled, or something
    cannot be read, and 3 when a store or a database cannot be reached. The rest is shown in any
    case.
    """
    from esops.config import load_config
    from esops.health.status import look

    output = current_output(context)
    form = output.format("table", "json")
    config = load_config(output.settings.config)
    stop = stop_on_signals()
    while True:
        # Everything is opened each time, so a store that comes back is shown once more.
        found = look(config, output.settings.store)
        if watch and output.data.is_terminal:
            output.data.clear()
        if form == "json":
            output.json(found.as_dict())
        else:
            _show(output, found)
        if not watch or stop.wait(2):
            # What could not be reached weighs more: everything else that is shown may be half of
            # it.
            return 0 if found.ok else 1 if found.reached else 3


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


def _show(output: Output, found: Status) -> None:
    from esops.cli.version_text import with_keeper

    # Name, version and what is wrong stay at any width; the store of a processor, for example, can
    # be found with --store.
    sections: list[tuple[str, list[dict[str, Any]], list[str], list[str]]] = [
        (
            "stores",
            found.stores,
            ["store", "backend", "layout", "head", "ok", "detail"],
            ["layout", "backend", "head"],
        ),
        (
            "processors",
            _with_lag_time(found.processors),
            [
                *("store", "name", "position", "lag_events", "lag_time", "state"),
                # Why is in it.
                *(
                    ["evidence"]
                    if any(each["state"] == "paused" for each in found.processors)
                    else []
                ),
            ],
            ["state", "position", "lag_time", "store"],
        ),
        (
            "projections",
            _with_lag_time(with_keeper(found.projections)),
            [
                *("projection", "version", "state", "position", "lag_events", "lag_time"),
                *("rows", "followed_by"),
                *(
                    ["dead_letters"]
                    if any(e.get("dead_letters") for e in found.projections)
                    else []
                ),
            ],
            ["rows", "position", "lag_time", "followed_by"],
        ),
        (
            "rebuilds",
            [_in_words(each) for each in found.rebuilds],
            ["rebuild", "projection", "state", "from_version", "to_version", "updated_at"],
            ["updated_at", "from_version"],
        ),
        (
            "archives",
            found.archives,
            [
                "archive",
                "policy",
                "run",
                "state",
                "streams",
                "events",
                "remove",
                "removed_events",
                "sealed_at",
            ],
            ["streams", "events", "sealed_at", "policy", "removed_events"],
        ),
    ]
    for title, rows, columns, drop in sections:
        if rows:
            # What cannot be read says why; `detail` of a processor is more than a sentence.
            said = any(isinstance(row.get("detail"), str) for row in rows)
            shown = [*columns, "detail"] if said and "detail" not in columns else columns
            cells = [[row.get(column) for column in shown] for row in rows]
            output.table(title, shown, cells, drop=drop, wrap=["detail", "evidence"])
            for line in _beside(title, rows):
                output.line(line)
            if title == "projections":
                for line in _of_checks(found.checks):
                    output.line(line)
            output.line()
