"""What `esops init` finds: event stores in a database or behind a node, and tables that look like
read models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import psycopg
from psycopg import conninfo, sql

from esops.errors import UsageError
from esops.postgres.catalog import Table, tables_with
from esops.postgres.connection import connect, translated
from esops.settings import StoreSettings
from esops.stores import open_store
from esops.stores.postgres.layouts import described, find_all
from esops.stores.postgres.layouts.base import Layout

_LOOKED_AT = 100_000
_SHOWN = 20
_CHECKPOINT = re.compile(
    r"(checkpoint|tracking|projection_(state|position|progress)|last_position)s?$", re.IGNORECASE
)
_LIBRARYS_OWN = re.compile(
    r"^(mt_|emt_|messages$)|_(tracking|snapshots|events|checkpoints?)$", re.IGNORECASE
)
NO_EVENT_STORE = re.compile(r"^(kafka|pulsar)(\+\w+)?://", re.IGNORECASE)
WHY_NOT = (
    "a log of topics is no event store: it cannot append to one stream with an expectation of its "
    "version, "
    "nor read one stream alone, so that nothing can be decided on what it holds"
)
_CREDENTIALS = re.compile(r"(?P<scheme>\w+(?:\+\w+)?://)(?P<user>[^:/@]+):(?P<password>[^@]*)@")


@dataclass
class Found:
    """What there is.

    `secret` is the environment variable that the password went to, if there was one.
    """

    address: str
    is_node: bool
    layouts: list[Layout] = field(default_factory=list)
    read_models: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    secret: str | None = None
    hints: dict[int, list[str]] = field(default_factory=dict)
    """Comments for a layout's section, by the layout's id()."""


def look(address: str) -> Found:
    """Look at a database (a libpq string or URL) or a node (`esdb://`).

    Raises UsageError, Unavailable.
    """
    if NO_EVENT_STORE.match(address):
        raise UsageError(
            WHY_NOT,
            hint="Point esops at the store that the application decides on: the topics are made "
            "from it.",
        )
    if re.match(r"^(esdb|kurrentdb|kurrent|eventstore)(\+discover)?://", address):
        return _look_at_node(address)
    with connect(address, "init") as connection, translated():
        found = Found(
            address, is_node=False, layouts=find_all(connection, StoreSettings(dsn=address))
        )
        found.read_models = _read_models(connection, found.layouts)
        for layout in found.layouts:
            found.notes += [
                f"{described(layout)}: {warning}" for warning in layout.warnings(connection)
            ]
            found.hints[id(layout)] = _hints(connection, layout)
    _hide_password(found)
    return found


def _look_at_node(uri: str) -> Found:
    with open_store("init", StoreSettings(backend="eventstoredb", uri=uri)) as store:
        info = store.ping()
    found = Found(
        uri,
        is_node=True,
        notes=[f"node {info.detail['node']}, {info.version}, {info.detail['state']}"],
    )
    hidden = _CREDENTIALS.sub(r"\g<scheme>\g<user>:${ESOPS_STORE_PASSWORD}@", uri)
    if hidden != uri:
        found.address, found.secret = hidden, "ESOPS_STORE_PASSWORD"
    return found


def _hide_password(found: Found) -> None:
    """Leave the password to the environment: it has no place in a file."""
    try:
        parts = {key: str(value) for key, value in conninfo.conninfo_to_dict(found.address).items()}
    except psycopg.ProgrammingError:
        return
    if not parts.get("password"):
        return
    found.secret = "ESOPS_STORE_PASSWORD"  # noqa: S105 - the variable's name
    if _CREDENTIALS.match(found.address):
        found.address = _CREDENTIALS.sub(
            r"\g<scheme>\g<user>:${ESOPS_STORE_PASSWORD}@", found.address
        )
    else:
        parts["password"] = "${ESOPS_STORE_PASSWORD}"  # noqa: S105
        found.address = conninfo.make_conninfo(**parts)


def _read_models(connection: psycopg.Connection, layouts: list[Layout]) -> list[str]:
    """Tables that a library projects to.

    Marten's documents, Pongo's collections, tables with a checkpoint beside them.
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
        _name(table)
        for table in (
            *marten,
            *pongo,
            *(each for each in beside if not _LIBRARYS_OWN.search(each.name)),
        )
        if sql.Identifier(table.schema, table.name).as_string(connection) not in own and table.key
    ]
    return list(dict.fromkeys(names))[:_SHOWN]


def _checkpoint_tables(connection: psycopg.Connection) -> list[Table]:
    """Tables named like a projection's checkpoint, with a number in them."""
    return [
        table
        for table in tables_with(connection, [])
        if _CHECKPOINT.search(table.name)
        and any(column.type in ("bigint", "integer", "numeric") for column in table.columns)
    ]


def _name(table: Table) -> str:
    return f"{table.schema}.{table.name}"


def configuration(found: Found) -> str:
    """A commented esops.toml that works for what was found."""
    lines = [
        "# Written by `esops init`. Every key: esops docs configuration",
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
        lines += [
            (
                f"[stores.{name}]                    # {described(layout)}, written by "
                f"{layout.version}"
            ),
            f"dsn = {_quoted(found.address)}",
            f"layout = {_quoted(layout.name)}",
            f"schema = {_quoted(layout.schema)}",
            *(
                f"{key} = {_quoted(layout.detail[key])}"
                for key in ("application", "tenant")
                if key in layout.detail
            ),
            *_advice(layout),
            *found.hints.get(id(layout), ()),
            "",
        ]
    if not found.layouts and not found.is_node:
        lines += _a_custom_table(found.address)
    if found.is_node:
        lines += [
            "[readmodels.main]                   # the Postgres database that projections write to",
            'dsn = "service=read"',
            "",
        ]
    lines += _a_projection(found)
    return "\n".join(lines)


def _advice(layout: Layout) -> list[str]:
    known = [
        f"# {what}: {value}"
        for what, value in layout.detail.items()
        if what not in ("application", "tenant", "append")
    ]
    if layout.name == "emmett":
        known.append(
            '# ordering = "position"           # to read by global position instead of by '
            "transaction id"
        )
    return known


def _hints(connection: psycopg.Connection, layout: Layout) -> list[str]:
    """What only the rows or functions tell: how Marten appends, which tenants there are."""
    lines = []
    if layout.name == "marten":
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname = %s AND p.proname = 'mt_quick_append_events')",
            (layout.schema,),
        ).fetchone()
        if row is not None and row[0]:
            lines.append(
                '# append = "quick"                # if all writers use quick appends: holes need '
                "no watching then"
            )
        else:
            lines.append(
                "# Writers use rich appends (there is no function for quick ones), so holes in the "
                "numbers are watched."
            )
    if layout.tenants:
        statement = sql.SQL(
            "SELECT DISTINCT {} FROM (SELECT * FROM {} LIMIT {}) AS some_events ORDER BY 1 LIMIT {}"
        ).format(layout.mapped.tenant, layout.events, sql.Literal(_LOOKED_AT), sql.Literal(_SHOWN))
        tenants = [row[0] for row in connection.execute(statement).fetchall()]
        lines.append(
            f"# tenant = {_quoted(tenants[0] if tenants else '…')}   # left out: all of them"
        )
        lines += [f"# Tenants seen: {', '.join(tenants)}"] if tenants else []
    return lines


def _store_names(layouts: list[Layout]) -> list[str]:
    """A name for each: the application's or schema's, or the layout's where that says nothing; each
    once.
    """
    names: list[str] = []
    for layout in layouts:
        schema = layout.schema if layout.schema not in ("public", "message_store") else layout.name
        wanted = re.sub(r"[^A-Za-z0-9_-]", "-", layout.detail.get("application") or schema)
        names.append(wanted if wanted not in names else f"{wanted}-{len(names) + 1}")
    return names


def _a_custom_table(address: str) -> list[str]:
    return [
        "# No event store that esops knows was found. A table of your own is described so:",
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


def _a_projection(found: Found) -> list[str]:
    table = found.read_models[0] if found.read_models else "my_summary"
    seen = (
        [f"# Tables that look like read models: {', '.join(found.read_models)}"]
        if found.read_models
        else []
    )
    return [
        *seen,
        (
            "# [projections.my_summary]            # what turns events into rows: "
            "esops docs projections"
        ),
        '# python = "my_projections:my_summary"',
        f"# tables = [{_quoted(table)}]",
        '# ddl = "my_summary.sql"              # left out: like the table that serves now',
        "",
    ]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
