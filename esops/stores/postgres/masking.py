"""Masking in Postgres: all rows of a layout's events with all their columns, and updates of what is
in them, in small transactions.

Nothing that is looked for is sent to the server, so that no log and no statistics of statements
have it. A row is replaced only if it is still the version that was read (its xmin).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import psycopg
from psycopg import errors, sql

from esops.errors import Busy, Refused, UsageError
from esops.events import Position, StreamKey
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.postgres.session import READ, use_own_path
from esops.postgres.statements import statements
from esops.postgres.whole_rows import whole_rows
from esops.stores.masking import Copied, Document, MaskedRow, StoredRow, Value
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.layouts.expressions import named
from esops.stores.postgres.settle import Waiting

_PAGE = 5_000
"""Rows of a statement, whose snapshot ends with it."""
_FETCHED = 500
_AT_ONCE = 50
"""Rows of a transaction: a writer that locks the table waits for no more."""
_LOCK_TIMEOUT, _STATEMENT_TIMEOUT = "500ms", "30s"
_ATTEMPTS = 60
_PATIENCE_SECONDS = 60.0
_STREAM_ROWS = {
    "marten": {
        "streams": "mt_streams",
        "id": "id",
        "tenant": "tenant_id",
        "stream": "stream_id",
    },
    "emmett": {
        "streams": "emt_streams",
        "id": "stream_id",
        "tenant": "partition",
        "stream": "stream_id",
    },
}
_SQL = statements(__package__, "masking")


class PostgresMasking:
    """Masking of one layout's tables."""

    def __init__(
        self,
        layout: Layout,
        dsn: str,
        control: Callable[[], AbstractContextManager[psycopg.Connection]],
    ) -> None:
        """`control` gives the connection for short questions."""
        self._layout, self._dsn, self._control = layout, dsn, control
        self.documents: Sequence[Document] = layout.documents
        self.wrapped = layout.decode is not None
        with control() as connection:
            parts = layout.events._obj  # noqa: SLF001 - psycopg gives no other way to ask
            table = catalog.find_table(connection, *parts)
        assert table is not None
        self._table = table

    # -- whether it can be done

    def check(self, columns: Sequence[str]) -> list[str]:
        """By the catalogue: rights, generated columns, rules, publications, triggers."""
        name = f"{self._table.schema}.{self._table.name}"
        with self._control() as connection:
            for column, allowed, generated, kind in connection.execute(
                _SQL["columns"], {"oid": self._table.oid, "columns": list(columns)}
            ).fetchall():
                if generated:
                    raise Refused(
                        f"column {column} of {name} is generated, so its values cannot be replaced",
                        hint="Name a path of the column that it is generated from.",
                    )
                if kind.startswith("_"):
                    raise Refused(
                        f"column {column} of {name} is an array, which esops does not change"
                    )
                if not allowed:
                    raise Refused(
                        f"this role may not update column {column} of {name}",
                        hint=f"GRANT UPDATE ({column}) ON {name} TO the role in the DSN.",
                    )
            rules, published, triggers = connection.execute(
                _SQL["obstacles"], {"oid": self._table.oid}
            ).fetchone() or ([], [], [])
        if rules:
            raise Refused(
                f"rules of {name} rewrite updates, so that esops cannot know what they do: "
                f"{', '.join(rules)}",
                hint="Drop them for the time of the erasure.",
            )
        if published:
            raise Refused(
                f"{', '.join(published)} has no replica identity and its updates are published, so "
                "Postgres refuses to update it",
                hint="ALTER TABLE … REPLICA IDENTITY FULL, or publish inserts only.",
            )
        return [
            f"the trigger {each} runs at each update of {name}: see that it keeps no copy of the "
            "old row"
            for each in triggers
        ]

    # -- reading

    def rows(self, stop: Callable[[], None] = lambda: None) -> Iterator[list[StoredRow]]:
        """In pages by position; each page is a statement and a snapshot of its own."""
        layout, m = self._layout, self._layout.mapped
        names = [column.name for column in self._table.columns]
        key = [sql.SQL("({})::text").format(m.stream), m.version]
        selected = named(
            [
                *layout.order,
                *key,
                m.tenant,
                m.type,
                sql.SQL("({}) IS NOT TRUE").format(layout.own),
                sql.SQL("xmin::text"),
                *(_as_stored(column) for column in self._table.columns),
            ]
        )
        order = sql.SQL(", ").join([*layout.order_columns, *key])
        last: StoredRow | None = None
        with translated(), connect(self._dsn, "erase", READ) as connection:
            while True:
                statement = sql.SQL("SELECT {} FROM {} WHERE {} AND {} AND {} ORDER BY {} LIMIT {}")
                page = statement.format(
                    selected,
                    layout.events,
                    layout.scope,
                    layout.numbered,
                    self._beyond(last, order),
                    order,
                    sql.Literal(_PAGE),
                )
                seen = 0
                with connection.transaction(), connection.cursor("esops_erase") as cursor:
                    cursor.itersize = _FETCHED
                    cursor.execute(page)
                    while found := cursor.fetchmany(_FETCHED):
                        stop()
                        batch = [self._row(each, names) for each in found]
                        seen, last = seen + len(batch), batch[-1]
                        yield batch
                if seen < _PAGE:
                    return

    def _beyond(self, last: StoredRow | None, order: sql.Composable) -> sql.Composable:
        if last is None:
            return sql.SQL("TRUE")
        # The first condition is implied by the second, and is the one that an index answers.
        return sql.SQL("{} AND ({}) > ({}, {}::text, {})").format(
            self._layout.beyond(last.position, strictly=False),
            order,
            sql.SQL(self._layout.literal(last.position)),
            sql.Literal(last.key.stream),
            sql.Literal(last.version),
        )

    def _row(self, row: Sequence[Any], names: Sequence[str]) -> StoredRow:
        parts = len(self._layout.order)
        stream, version, tenant, kind, hidden, state = row[parts : parts + 6]
        columns: dict[str, Value] = dict(zip(names, row[parts + 6 :], strict=True))
        key = StreamKey(stream, tenant or "")
        return StoredRow(key, version, Position(row[:parts]), kind, hidden, columns, state)

    def emptied(self) -> Iterator[StreamKey]:
        """By the rows of streams that Marten and Emmett keep."""
        names = _STREAM_ROWS.get(self._layout.name)
        with translated(), connect(self._dsn, "erase", READ) as connection:
            schema = self._layout.schema
            table = names and catalog.find_table(connection, schema, names["streams"])
            if not names or not table or not table.has("is_archived", names["tenant"]):
                return
            statement = sql.SQL(_SQL["emptied"]).format(
                events=self._layout.events,
                schema=sql.Identifier(schema),
                **{key: sql.Identifier(name) for key, name in names.items()},
            )
            for stream, tenant in connection.execute(statement):
                yield StreamKey(stream, tenant)

    def copies(self, tables: Sequence[str] = ()) -> Iterator[list[Copied]]:
        """Marten's documents, streams, tags and natural keys, Emmett's streams, eventsourcing's
        snapshots, and the tables named.
        """
        with translated(), connect(self._dsn, "erase", READ) as connection:
            wanted = [
                (schema, name, _REMEDIES[of])
                for schema, name, of in connection.execute(
                    _SQL["copies"], {"layout": self._layout.name, "schema": self._layout.schema}
                ).fetchall()
            ]
            for each in tables:
                schema, name = catalog.parse_name(each)
                schemas = [schema] if schema else catalog.schemas_with(connection, name)
                wanted.append((schemas[0] if schemas else "", name, _REMEDIES["named"]))
            for schema, name, remedy in wanted:
                table = catalog.find_table(connection, schema, name)
                if table is None:
                    raise UsageError(f"tables: there is no table {name} in the store's database")
                for batch in whole_rows(connection, table):
                    yield [
                        Copied(f"{schema}.{name}", text, remedy) for row in batch for text in row
                    ]

    # -- writing

    def wait_for_writers(self, stop: Callable[[], None] = lambda: None) -> None:
        """By the locks on the events' tables; nobody waits for this in turn.

        Raises Busy where that takes more than a minute.
        """
        waiting = Waiting([self._layout.events.as_string(None)])
        with self._control() as connection:
            waiting.look(connection)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not waiting.over(connection):
                if time.monotonic() > deadline:
                    raise Busy(
                        "a transaction has written events and did not end within a minute, so what "
                        "it wrote cannot be read",
                        hint="Wait until it has ended, or end it, and run this again.",
                    )
                stop()
                time.sleep(0.1)

    def write(self, changes: Sequence[MaskedRow]) -> list[StoredRow]:
        """Fifty rows a transaction. Raises Refused where the server does not take the new contents,
        and Busy where a lock cannot be had within a minute.
        """
        changed: list[StoredRow] = []
        with translated(), connect(self._dsn, "erase") as connection:
            for timeout, value in (
                ("lock_timeout", _LOCK_TIMEOUT),
                ("statement_timeout", _STATEMENT_TIMEOUT),
            ):
                connection.execute("SELECT set_config(%s, %s, false)", (timeout, value))
            for first in range(0, len(changes), _AT_ONCE):
                group = changes[first : first + _AT_ONCE]
                changed += self._write_patiently(connection, group)
        return changed

    def _write_patiently(
        self, connection: psycopg.Connection, group: Sequence[MaskedRow]
    ) -> list[StoredRow]:
        for _ in range(_ATTEMPTS):
            try:
                with connection.transaction():
                    use_own_path(connection)  # for triggers of the application
                    return [each.row for each in group if not self._replace(connection, each)]
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                time.sleep(0.5)
            except (
                errors.DataError,
                errors.IntegrityError,
                errors.RaiseException,
                errors.ObjectNotInPrerequisiteState,
                errors.FeatureNotSupported,
            ) as error:
                # Its message may have the row.
                what = error.diag.constraint_name or error.diag.column_name or error.sqlstate
                raise Refused(
                    f"the database does not take the masked rows of "
                    f"{self._layout.events.as_string(None)} ({type(error).__name__}: {what})",
                    hint="A constraint or trigger forbids it, or the mask does not fit the "
                    "column. What was masked before stays masked; run it again after that.",
                ) from None
        raise Busy(
            "a lock on the events' table could not be had within half a minute",
            hint="Somebody holds it. Run it again: it continues where it stopped.",
        )

    def _replace(self, connection: psycopg.Connection, change: MaskedRow) -> bool:
        row, layout, m = change.row, self._layout, self._layout.mapped
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(f"new{at}"))
            for at, name in enumerate(change.columns)
        )
        statement = sql.SQL(
            "UPDATE {} SET {} WHERE {} AND {} AND {} = %(version)s AND {} AND "
            "xmin::text = %(state)s RETURNING ({})::text, {}, {}"
        ).format(
            layout.events,
            assignments,
            sql.SQL("({}) = ({})").format(
                sql.SQL(", ").join(layout.order_columns), sql.SQL(layout.literal(row.position))
            ),
            layout.same_stream(sql.Placeholder("stream")),
            m.version,
            layout.scope,
            m.stream,
            m.version,
            m.type,
        )
        values = {
            "stream": row.key.stream,
            "version": row.version,
            "state": row.state,
            **{f"new{at}": value for at, value in enumerate(change.columns.values())},
        }
        found = connection.execute(statement, values).fetchall()
        if found and found != [(row.key.stream, row.version, row.type)]:
            raise Refused(
                f"masking would change the stream, version or type of the event at {row.position}: "
                "a generated column or a trigger makes them of what is masked",
                hint="Leave that path out of the rule.",
            )
        return bool(found)


_REMEDIES: Mapping[str, str] = {
    "document": "Marten's own projections keep it: rebuild them with Marten.",
    "named": "Erase it there as the application does.",
    "lookup": "Marten made this row of an event: delete it, or change it as Marten's masking does.",
    "snapshot": "It is a snapshot: delete its row, and the library makes a new one.",
}


def _as_stored(column: catalog.Column) -> sql.Composable:
    name = sql.Identifier(column.name)
    return name if column.kind == "bytea" else sql.SQL("{}::text").format(name)
