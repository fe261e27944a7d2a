"""What is wrong with what serves, whatever its code: what `status` and `doctor` say of it, too."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from esops.config import Config
from esops.postgres import catalog
from esops.readmodel import own_rows, read_as, served
from esops.readmodel.registry import Version
from esops.readmodel.tables import missing_tables
from esops.rebuild import journal, overview, under_way
from esops.rebuild.target import Target
from esops.running import gone
from esops.stores.base import EventStore


def of_tables(
    config: Config,
    connection: psycopg.Connection,
    target: Target,
    serving: Version,
    versions: Sequence[Version],
) -> dict[str, str]:
    """Of the rows, the tables and the names that readers use, each in words with what to do."""
    found = {}
    unfinished = _in_place(connection, serving)
    other = own_rows.look(connection, serving)
    if unfinished is not None:
        found["rows"] = unfinished
    elif other is not None:
        found["rows"] = f"{other.message}. {other.hint}"
    missing = missing_tables(connection, serving)
    if missing:
        there = [each for each in versions if not missing_tables(connection, each)]
        found["gone"] = (
            f"{', '.join(missing)} of v{serving.version}, which should serve, does not exist any "
            f"more. {gone.remedy(config, serving, there)}"
        )
        return found
    else_where = [
        f"{each.message}: {each.fix}"
        for each in served.look(config, connection, target.name, strictly=True)
    ]
    if target.settings.switch != "hook":
        other_schema = read_as.in_other_schema(connection, target.names, serving)
        if other_schema:
            else_where.append(
                f"{read_as.in_words(other_schema, serving)}. "
                f"{read_as.remedy(target.names, other_schema, target.name)}."
            )
        else_where += [
            f"there is no {each} any more that would show v{serving.version}: "
            f"{served.view(connection, each, serving)};"
            for each in target.names
            if serving.tables.get(each.name, ("", ""))[0] == each.schema
            and catalog.find_table(connection, each.schema, each.name) is None
        ]
    if else_where:
        found["readers"] = " ".join(else_where)
    return found


def of_log(connection: psycopg.Connection, events: EventStore, serving: Version) -> str | None:
    """Why a version's rows are not of the events that a store has; None where they are."""
    found = overview.trouble_of(connection, events, serving)
    return None if found is None else f"{found.message}{f'. {found.hint}' if found.hint else ''}"


def _in_place(connection: psycopg.Connection, serving: Version) -> str | None:
    entry = journal.latest(connection, serving.projection)
    if entry is None or not entry.options.get("in_place") or entry.to_version != serving.version:
        return None
    waits = under_way.unfinished(entry, works=False)
    if waits is None:
        return None
    return (
        f"rebuild {entry.rebuild} in place has not come to its end ({entry.state}), so rows are "
        f"missing or old: {waits['resume']}"
    )
