"""What `esops init` detects, and the esops.toml that it writes for it.

It detects event stores in a database or behind a node, and tables that look like read models.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

from esops.errors import UsageError
from esops.escaping import visible
from esops.postgres.catalog import Table, tables_with, written_name
from esops.postgres.connection import connect, translated
from esops.settings import EventStoreDBSettings, PostgresSettings
from esops.stores import open_store
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.layouts.finding import described, find_all

_ROWS_SAMPLED = 100_000
"""Rows of the events table that are read to find out which tenants there are."""
_MOST_LISTED = 20
_WRITTEN = "# Written by `esops init`"
_CHECKPOINT = re.compile(
    r"(checkpoint|tracking|projection_(state|position|progress)|last_position)s?$", re.IGNORECASE
)
_NO_READ_MODEL = re.compile(r"mt_doc_deadletterevent$|__v\d+$")
"""Marten's own list of what it could not apply, and versions that esops has made."""
_LIBRARYS_OWN = re.compile(
    r"^(mt_|emt_|messages$)|_(tracking|snapshots|events|checkpoints?)$", re.IGNORECASE
)
NO_EVENT_STORE = re.compile(r"^(kafka|pulsar)(\+\w+)?://", re.IGNORECASE)
WHY_NOT = (
    "a log of topics is not an event store: it cannot append to one stream with an expected "
    "version, and cannot read one stream alone, so an application cannot decide on what it holds"
)
_OTHER_DATABASES = """
SELECT datname FROM pg_database
WHERE datallowconn AND NOT datistemplate AND datname <> current_database()
  AND has_database_privilege(datname, 'CONNECT')
ORDER BY datname LIMIT 20
"""
_MAY_READ = """
SELECT has_schema_privilege(%s, 'USAGE')
  AND (SELECT bool_and(has_table_privilege(name, 'SELECT')) FROM unnest(%s::text[]) AS name)
"""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CREDENTIALS = re.compile(r"(?P<scheme>\w+(?:\+\w+)?://)(?P<user>[^:/@]+):(?P<password>[^@]*)@")


@dataclass
class Detection:
    """What a database or a node holds."""

    address: str
    """The DSN or URI, without its password."""
    is_node: bool
    layouts: list[Layout] = field(default_factory=list)
    read_models: list[str] = field(default_factory=list)
    written: dict[str, list[str]] = field(default_factory=dict)
    """What a projection of such a table needs beside its code, by the table's name: the settings
    that say that the application writes it, where the library's own tables tell.
    """
    notes: list[str] = field(default_factory=list)
    secret: str | None = None
    """The environment variable that has to hold the password, if the address had one."""
    hints: dict[int, list[str]] = field(default_factory=dict)
    """Comments for the section of a layout, by the layout's id()."""
    role: str = ""
    """Whom the database takes us for; empty for a node."""
    database: str = ""
    others: list[str] = field(default_factory=list)
    """The server's other databases that take connections, where this one has no event store."""
    unreadable: list[str] = field(default_factory=list)
    """The event stores that this role may not read, in words."""


def detect(address: str) -> Detection:
    """Find out what a database (a libpq string or URL) or a node (`esdb://`) holds.

    Raises UsageError where the address is that of something else, and Unavailable.
    """
    if NO_EVENT_STORE.match(address):
        raise UsageError(
            WHY_NOT,
            hint="Name the store that the application decides on. The topics are fed from it.",
        )
    if re.match(r"^(esdb|kurrentdb|kurrent|eventstore)(\+discover)?://", address):
        return _detect_node(address)
    with connect(address, "init") as connection, translated():
        found = Detection(
            address, is_node=False, layouts=find_all(connection, PostgresSettings(dsn=address))
        )
        found.written = _written(connection, found.layouts)
        seen = _read_models(connection, found.layouts)
        found.read_models = list(dict.fromkeys([*seen, *found.written]))[:_MOST_LISTED]
        found.role, found.database = connection.info.user, connection.info.dbname
        if not found.layouts:
            found.others = [row[0] for row in connection.execute(_OTHER_DATABASES).fetchall()]
        for layout in found.layouts:
            if not _readable(connection, layout):
                # What only rows tell cannot be found out either.
                found.unreadable.append(described(layout))
                continue
            found.notes += [
                f"{described(layout)}: {warning}" for warning in layout.warnings(connection)
            ]
            found.hints[id(layout)] = _hints(connection, layout)
    _hide_password(found)
    return found


def _readable(connection: psycopg.Connection, layout: Layout) -> bool:
    """Whether this role may read the tables of a store."""
    names = [each.as_string(connection) for each in (layout.events, *layout.reads)]
    row = connection.execute(_MAY_READ, [layout.schema, names]).fetchone()
    return row is not None and bool(row[0])


def _detect_node(uri: str) -> Detection:
    with open_store("init", EventStoreDBSettings(uri=uri)) as store:
        info = store.ping()
    found = Detection(
        uri,
        is_node=True,
        notes=[f"node {info.detail['node']}, {info.version}, {info.detail['state']}"],
    )
    hidden = _CREDENTIALS.sub(r"\g<scheme>\g<user>:${ESOPS_STORE_PASSWORD}@", uri)
    if hidden != uri:
        found.address, found.secret = hidden, "ESOPS_STORE_PASSWORD"
    return found


def _hide_password(found: Detection) -> None:
    """Put an environment variable where the password is: a file must not contain a secret."""
    try:
        parts = {key: str(value) for key, value in conninfo.conninfo_to_dict(found.address).items()}
    except psycopg.ProgrammingError:
        return
    if not parts.get("password"):
        return
    found.secret = "ESOPS_STORE_PASSWORD"  # noqa: S105 - the variable's name
    # A URL stays a URL, and a list of key = value stays one: the owner knows it again.
    if _CREDENTIALS.match(found.address):
        found.address = _CREDENTIALS.sub(
            r"\g<scheme>\g<user>:${ESOPS_STORE_PASSWORD}@", found.address
        )
    else:
        parts["password"] = "${ESOPS_STORE_PASSWORD}"  # noqa: S105
        found.address = conninfo.make_conninfo(**parts)


def _read_models(connection: psycopg.Connection, layouts: list[Layout]) -> list[str]:
    """Names of tables that a library probably projects to: Marten's documents, Pongo's collections,
    and tables that have a checkpoint table in their schema.
    """
    own = {
        each.as_string(connection) for layout in layouts for each in (layout.events, *layout.reads)
    }
    marten = [
        table
        for table in tables_with(connection, ["id", "data", "mt_version"])
        if table.name.startswith("mt_doc_")
    ]
    pongo = tables_with(connection, ["_id", "data", "_version"])
    beside = [
        table
        for keeper in _checkpoint_tables(connection)
        for table in tables_with(connection, [], keeper.schema)
    ]
    names = [
        written_name(table.schema, table.name)
        for table in (
            *marten,
            *pongo,
            *(each for each in beside if not _LIBRARYS_OWN.search(each.name)),
        )
        # A read model has a key, and is not one of the tables that hold the events.
        if sql.Identifier(table.schema, table.name).as_string(connection) not in own and table.key
    ]
    return list(dict.fromkeys(names))


def _written(connection: psycopg.Connection, layouts: list[Layout]) -> dict[str, list[str]]:
    """The settings for the tables that the application writes, as far as its library's own tables
    tell.
    """
    found: dict[str, list[str]] = {}
    for layout in layouts:
        for inline in layout.inline_tables(connection):
            found[written_name(inline.schema, inline.name)] = ['live = "inline"']
        for kept in layout.kept_tables(connection):
            checkpoint = _quoted(kept.processors[0]) if kept.processors else '"…"'
            settings = ['live = "app"', f"checkpoint = {checkpoint}"]
            found[written_name(kept.schema, kept.name)] = settings
    return {
        name: [*settings, 'switch = "rename"']
        for name, settings in found.items()
        if not _NO_READ_MODEL.search(name)
    }


def _checkpoint_tables(connection: psycopg.Connection) -> list[Table]:
    """Tables named like a projection's checkpoint, with a number in them."""
    return [
        table
        for table in tables_with(connection, [])
        if _CHECKPOINT.search(table.name)
        and any(column.type in ("bigint", "integer", "numeric") for column in table.columns)
    ]


def is_empty(file: Path) -> bool:
    """Whether a file is one that `esops init` wrote where it found no store, with comments only."""
    try:
        text = file.read_text(encoding="utf-8")
        return text.startswith(_WRITTEN) and not tomllib.loads(text)
    except (OSError, ValueError):
        return False


def as_toml(found: Detection) -> str:
    """An esops.toml with comments that works for what was detected."""
    lines = [
        f"{_WRITTEN}. Every key: esops docs configuration",
        "# ${NAME} reads the environment, so that secrets stay out of this file.",
        *([f"# Set {found.secret} before esops runs."] if found.secret else []),
        *(f"# {note}" for note in found.notes),
        "",
    ]
    if found.is_node:
        lines += [
            "[stores.events]",
            'backend = "eventstoredb"',
            f"uri = {_quoted(found.address)}",
            "",
        ]
    for layout, name in zip(found.layouts, _store_names(found.layouts), strict=True):
        lines += [*_a_store(found, layout, name), ""]
    if not found.layouts and not found.is_node:
        lines += _a_custom_table(found.address)
    if found.is_node:
        lines += [
            "[readmodels.main]                   # the Postgres database that projections write to",
            'dsn = "service=read"',
            "",
        ]
    lines += _a_projection(found)
    # A name of the database's must not end a comment and begin a setting.
    return "\n".join(map(visible, lines))


def _a_store(found: Detection, layout: Layout, name: str) -> list[str]:
    keys = [key for key in ("application", "tenant") if key in layout.detail]
    return [
        (f"[stores.{name}]                    # {described(layout)}, written by {layout.version}"),
        f"dsn = {_quoted(found.address)}",
        f"layout = {_quoted(layout.name)}",
        f"schema = {_quoted(layout.schema)}",
        *(f"{key} = {_quoted(layout.detail[key])}" for key in keys),
        *_advice(layout),
        *found.hints.get(id(layout), ()),
    ]


def _advice(layout: Layout) -> list[str]:
    return [
        f"# {what}: {value}"
        for what, value in layout.detail.items()
        if what not in ("application", "tenant", "append")
    ]


def _hints(connection: psycopg.Connection, layout: Layout) -> list[str]:
    """Comments on what only rows or functions show: how Marten appends, which tenants there are."""
    lines = layout.setting_hints(connection)
    if layout.tenants:
        # Of the first events only: all of them may be a billion.
        statement = sql.SQL(
            "SELECT DISTINCT {} FROM (SELECT * FROM {} LIMIT {}) AS some_events ORDER BY 1 LIMIT {}"
        ).format(
            layout.mapped.tenant,
            layout.events,
            sql.Literal(_ROWS_SAMPLED),
            sql.Literal(_MOST_LISTED),
        )
        tenants = [row[0] for row in connection.execute(statement).fetchall()]
        lines.append(
            f"# tenant = {_quoted(tenants[0] if tenants else '…')}   # left out: all of them"
        )
        lines += [f"# Tenants seen: {', '.join(tenants)}"] if tenants else []
    return lines


def _store_names(layouts: list[Layout]) -> list[str]:
    """A unique name for each: that of its application or schema, or that of its layout where the
    schema has a common name.
    """
    names: list[str] = []
    for layout in layouts:
        schema = layout.schema if layout.schema not in ("public", "message_store") else layout.name
        # What a bare key of TOML may hold.
        name = re.sub(r"[^A-Za-z0-9_-]", "-", layout.detail.get("application") or schema)
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


def _a_custom_table(address: str) -> list[str]:
    return [
        "# esops found no event store that it knows. Describe a table of your own like this:",
        "# [stores.events]",
        f"# dsn = {_quoted(address)}",
        "# [stores.events.table]",
        '# name = "schema.events"',
        '# stream = "stream_id"',
        '# version = "version"',
        '# position = "position"             # filled by a sequence',
        '# type = "type"',
        '# data = "data"',
        "",
    ]


def _a_projection(found: Detection) -> list[str]:
    table = found.read_models[0] if found.read_models else "my_summary"
    seen = (
        [f"# Tables that look like read models: {', '.join(found.read_models)}"]
        if found.read_models
        else []
    )
    who = {name: found.written[name] for name in found.read_models if name in found.written}
    if who:
        seen.append("# The application writes these itself, so esops must not write to them:")
        seen += [f"#   {name}: {', '.join(settings)}" for name, settings in who.items()]
    return [
        *seen,
        (
            "# [projections.my_summary]            # what turns events into rows: "
            "esops docs projections"
        ),
        '# python = "my_projections:my_summary"',
        f"# tables = [{_quoted(table)}]",
        *(f"# {each}" for each in who.get(table, ())),
        '# ddl = "my_summary.sql"              # left out: like the table that serves now',
        "",
    ]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'
