"""The names by which readers know a version, held against those that esops.toml gives.

A name without a schema gets the current one of the role, and that changes with its search path. A
version that was built under another schema would serve where nobody reads it, and the readers would
stay with the old one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import psycopg

from esops.errors import Refused
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.readmodel.names import ReadModelName
from esops.readmodel.registry import Version

_SQL = statements(__package__, "read_as")
Pair = tuple[ReadModelName, ReadModelName]
"""A name as readers have it, and as it would be now."""


def names_of_version(version: Version) -> list[ReadModelName]:
    """The names that readers use for a version that esops made."""
    return [ReadModelName(schema, name) for name, (schema, _) in version.tables.items()]


def as_read(names: Sequence[ReadModelName], version: Version) -> list[ReadModelName]:
    """The names, in the schemas in which readers have the version; those of a version that the
    application makes as they are, since its tables may be in any schema.
    """
    if version.checkpoint is not None:
        return list(names)
    read = {each.name: each for each in names_of_version(version)}
    return [read.get(each.name, each) for each in names]


def in_other_schema(
    connection: psycopg.Connection, names: Sequence[ReadModelName], active: Version
) -> list[Pair]:
    """The names that are in another schema than that in which readers have the version that serves.

    Where nothing has the old name any more, nobody reads it.
    """
    if active.checkpoint is not None:
        return _views_in_other_schemas(connection, names, active)
    return [
        (was, now)
        for was, now in zip(as_read(names, active), names, strict=True)
        if was != now and catalog.has_table(connection, was.schema, was.name)
    ]


def check(
    connection: psycopg.Connection, names: Sequence[ReadModelName], active: Version | None
) -> None:
    """Raises Refused where a new version would serve under names in another schema."""
    found = [] if active is None else in_other_schema(connection, names, active)
    if active is not None and found:
        raise Refused(
            f"{in_words(found, active)}: its readers would stay with an old version",
            hint=f"Nothing was changed. {remedy(names, found, active.projection)}",
        )


def in_words(found: Sequence[Pair], active: Version) -> str:
    """What differs."""
    was, now = (", ".join(map(str, each)) for each in zip(*found, strict=True))
    return (
        f"v{active.version} of {active.projection} is read as {was}, and by esops.toml and the "
        f"search path of this role it would be {now}"
    )


def remedy(names: Sequence[ReadModelName], found: Sequence[Pair], projection: str) -> str:
    """What to do about it."""
    right = {now: was for was, now in found}
    tables = ", ".join(_in_toml(right.get(each, each)) for each in names)
    return (
        f"Name the schema in esops.toml: projections.{projection}.tables = [{tables}]. To move it "
        "to another schema, build it there as a projection with another name, and move its readers"
    )


def _in_toml(name: ReadModelName) -> str:
    plain = "." not in name.schema + name.name and '"' not in name.schema + name.name
    return json.dumps(str(name) if plain else name.identifier.as_string(None), ensure_ascii=False)


def check_together(connection: psycopg.Connection, source: Version, target: Version) -> None:
    """Raises Refused where two versions are read in different schemas, as an older esops could
    build them: a switch would leave the readers of the first behind.
    """
    if source.checkpoint is not None or target.checkpoint is not None:
        return
    found = in_other_schema(connection, names_of_version(target), source)
    if found:
        was, now = found[0]
        own = source.tables[was.name] == (was.schema, was.name)
        raise Refused(
            f"v{source.version} of {source.projection} is read as {was}, and v{target.version} as "
            f"{now}: readers of the first would stay with it",
            hint="Nothing was changed. Build it as a projection with another name, and move its "
            "readers."
            if own
            else f"Nothing was changed. Move them to {now}, drop the view {was} or give it another "
            "name, and run this again.",
        )


def _views_in_other_schemas(
    connection: psycopg.Connection, names: Sequence[ReadModelName], active: Version
) -> list[Pair]:
    return [
        (ReadModelName(row[0], name.name), name)
        for name in names
        if name.name in active.tables and not catalog.has_table(connection, name.schema, name.name)
        for row in connection.execute(
            _SQL["views"],
            {"name": name.name, "table": catalog.oid_of(connection, *active.tables[name.name])},
        )
    ]
