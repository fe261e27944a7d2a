"""What a switch of a table that the application writes with each append would take from it.

The application and its library expect the table to be as it was: its keys for ON CONFLICT, its
columns, foreign keys and rules. And its appends wait as long as the switch takes. So what another
switch only names is refused here, with the statements that make the switch possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import psycopg

from esops.errors import Refused
from esops.postgres import catalog, publications
from esops.postgres.catalog import Table
from esops.readmodel.composition import TablePart, composition
from esops.rebuild import carried, moved_aside, switch
from esops.rebuild.ignored import not_kept
from esops.rebuild.left_behind import Obstacle, Root, refuse
from esops.rebuild.switch import Switch
from esops.settings import VerifySettings

_LOST = {
    "foreign key": "adding it would lock the table that it refers to",
    "rule": "it is bound to one version",
}


def check(connection: psycopg.Connection, what: Switch) -> None:
    """Raises Refused for a switch after which appends would fail, or lack what blue has, or for
    which they would wait long.
    """
    moved_aside.check_written(what.source, what.names)
    roots = switch.roots(what, switch.pairs_of(connection, what))
    refuse(roots, [*carried.populated(connection, roots), *_lost(connection, roots)])
    for root in roots:
        _check_appends(connection, root)


def notes(connection: psycopg.Connection, what: Switch, verify: VerifySettings) -> Iterator[str]:
    """What an operator should know before such a rebuild."""
    for root in switch.roots(what, switch.pairs_of(connection, what)):
        for path in not_kept(root.current, root.target, verify):
            yield (
                f"verify.ignore names {path} in each of several values: these cannot be taken over "
                "from the rows that serve, so they are as the projection makes them"
            )


def _lost(connection: psycopg.Connection, roots: Sequence[Root]) -> Iterator[Obstacle]:
    for root in roots:
        row = connection.execute(
            "SELECT format('%%I.%%I', %s::text, %s::text)", (root.current.schema, root.current.name)
        ).fetchone()
        assert row is not None
        table = row[0]
        gets = {(e.kind, e.text) for e in composition(connection, root.target.oid)}
        yield from _published(connection, root, table)
        for part in composition(connection, root.current.oid):
            if part.kind not in _LOST or (part.kind, part.text) in gets or " of " in part.name:
                continue
            yield Obstacle(f"{part} of {table}", _LOST[part.kind], *_by_hand(table, part))


def _published(connection: psycopg.Connection, root: Root, table: str) -> Iterator[Obstacle]:
    """What this role may not put into the publications that name the old table."""
    there = {e.publication for e in publications.of_table(connection, root.target.oid, "")}
    for each in publications.of_table(connection, root.current.oid, table):
        if not each.ours and each.publication not in there:
            name = f"membership of publication {each.publication}"
            why = f"it belongs to the role {each.owner}, of which this role is not a member"
            yield Obstacle(name, why, each.drop, each.add, each.owner)


def _by_hand(table: str, part: TablePart) -> tuple[str, str | None]:
    if part.kind == "rule":
        return f"DROP RULE {part.name} ON {table}", None
    made = part.text.replace("REFERENCES itself", f"REFERENCES {table}")
    valid = not made.endswith("NOT VALID")
    return (
        f"ALTER TABLE {table} DROP CONSTRAINT {part.name}",
        f"ALTER TABLE {table} ADD CONSTRAINT {part.name} {made}"
        + (f" NOT VALID;\n  ALTER TABLE {table} VALIDATE CONSTRAINT {part.name}" if valid else ""),
    )


def _check_appends(connection: psycopg.Connection, root: Root) -> None:
    """Raises Refused where statements of the application would fail on the new table."""
    blue, green = root.current, root.target
    found = [*_columns(connection, blue, green), *_keys(connection, blue, green)]
    if found:
        raise Refused(
            f"the application writes {root.name}, also instances with the old code, and would fail "
            f"on the new table: {'; '.join(found)}",
            hint="Let the new table have them as the old one has. Drop columns when the last "
            "instance with the old code has ended, and give new ones a default value.",
        )


def _columns(connection: psycopg.Connection, blue: Table, green: Table) -> Iterator[str]:
    had, gets = (catalog.defaults(connection, each.oid) for each in (blue, green))
    required = {
        row[0]
        for row in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND attnotnull",
            (green.oid,),
        ).fetchall()
    }
    for column in blue.columns:
        if not green.has(column.name):
            yield f"it lacks the column {column.name}"
        elif gets.get(column.name, ("", False))[1] and not had.get(column.name, ("", False))[1]:
            yield f"Postgres makes the values of its column {column.name}"
    for column in green.columns:
        if not blue.has(column.name) and column.name in required and column.name not in gets:
            yield f"its new column {column.name} is NOT NULL and has no default value"


def _keys(connection: psycopg.Connection, blue: Table, green: Table) -> Iterable[str]:
    """What ON CONFLICT may name and the new table lacks."""
    gets = {each.text for each in composition(connection, green.oid) if each.kind == "index"}
    return [
        f"it lacks the unique {each}"
        for each in composition(connection, blue.oid)
        if each.kind == "index" and each.text.startswith("UNIQUE ") and each.text not in gets
    ]
