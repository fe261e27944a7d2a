"""Emmett's tables (0.38 to 0.44): emt_streams, emt_messages, emt_processors (up to 0.41:
emt_subscriptions).

Rows carry their transaction's id, and the library reads in the order of (transaction id, global
position) what lies below the oldest running transaction. esops does the same, or reads by global
position with `ordering = "position"`. A partition of Emmett's is a tenant here. Facts: Emmett's
PostgreSQL event store sources; see docs/reference/layouts.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.errors import NoTenant, Unavailable, UsageError
from esops.events import Checkpoint, NewEvent, Position
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.settings import PostgresSettings
from esops.stores.inline_tables import InlineTable, KeptTable
from esops.stores.masking import Document
from esops.stores.parts import Concern
from esops.stores.postgres import used_again
from esops.stores.postgres.layouts.appending import AppendBesideStreamRow
from esops.stores.postgres.layouts.base import NO_TENANT, Layout, Mapped, StreamTable
from esops.stores.postgres.layouts.emmett import archiving as emmett_archiving
from esops.stores.postgres.layouts.emmett import inline, processors
from esops.stores.postgres.layouts.emmett.handing_over import HandingOver
from esops.stores.postgres.layouts.expressions import category_in
from esops.stores.postgres.missing import NumbersInOrder
from esops.stores.postgres.numbered_events import NumberedEvents
from esops.stores.postgres.sequence import NumberSequence
from esops.stores.postgres.settle import SequenceLockers, SettleRule, TransactionIds

DEFAULT_PARTITION = "emt:default"
SEQUENCE = "emt_global_message_position"
_ONE = re.compile(r"FOR VALUES IN \('((?:[^']|'')*)'\)")
_USED_AGAIN = (
    'Give new streams names of their own. With reuse = "refuse" in the policy, the names of '
    "streams that leave from now on continue behind their last versions."
)
_APPENDING = statements(__package__, "appending")
_C = sql.Identifier


def detect(connection: psycopg.Connection, settings: PostgresSettings) -> list[Emmett]:
    """Emmett's stores in a database."""
    found, refused = list[Emmett](), list[UsageError]()
    for schema in catalog.schemas_with(connection, "emt_messages", "emt_streams"):
        if settings.db_schema is None or schema == settings.db_schema:
            try:
                _check_partition(connection, schema, settings.tenant)
                found.append(Emmett(read_variant(connection, schema, settings)))
            except UsageError as error:
                refused.append(error)
    if refused and not found:
        raise refused[0]
    return found


def _check_partition(connection: psycopg.Connection, schema: str, name: str | None) -> None:
    """Raises UsageError for a partition into which nothing can be written."""
    if name is None:
        return
    messages = _C(schema, "emt_messages").as_string(None)
    rows = connection.execute(
        "SELECT pg_get_expr(c.relpartbound, c.oid), format('FOR VALUES IN (%%L)', %(name)s::text) "
        "FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = to_regclass(%(messages)s) ORDER BY 1",
        {"name": name, "messages": messages},
    ).fetchall()
    # A bound of another form, such as of several names, is somebody's own.
    bounds = [_ONE.fullmatch(bound) for bound, _ in rows]
    if all(bounds) and not any(bound == wanted for bound, wanted in rows):
        there = [each[1].replace("''", "'") for each in bounds if each]
        raise NoTenant(
            f"tenant: emt_messages in schema {schema!r} has no partition {name!r}",
            hint="There is: " + (", ".join(there) or "none"),
        )


@dataclass(frozen=True)
class EmmettVariant:
    """What the catalogue and the settings say of Emmett's tables in a schema."""

    schema: str
    settings: PostgresSettings
    processors: str
    """The table of processors: emt_processors, or emt_subscriptions up to 0.41."""
    tenants: bool
    """Whether all of several partitions are read."""
    tenant: str | None
    """The only partition that is read."""
    by_position: bool
    indexed: bool
    """Whether an index leads to a global position; Emmett makes none."""

    def table(self, name: str) -> sql.Identifier:
        """A table of the schema."""
        return _C(self.schema, name)


def read_variant(
    connection: psycopg.Connection, schema: str, settings: PostgresSettings
) -> EmmettVariant:
    """Look at the tables of a schema. Raises Unavailable where the sequence is missing."""
    if catalog.sequence_of(connection, schema, SEQUENCE) is None:
        raise Unavailable(
            f"schema {schema!r} has emt_messages but no sequence {SEQUENCE}",
            hint="Is it a copy without it?",
        )
    newer = catalog.has_table(connection, schema, "emt_processors")
    partitions = connection.execute(
        sql.SQL("SELECT count(*) FROM pg_inherits WHERE inhparent = {}::regclass").format(
            sql.Literal(_C(schema, "emt_messages").as_string(None))
        )
    ).fetchone()
    return EmmettVariant(
        schema,
        settings,
        "emt_processors" if newer else "emt_subscriptions",
        # With one partition, a tenant in each event would only be noise.
        tenants=settings.tenant is None and partitions is not None and partitions[0] > 1,
        tenant=settings.tenant,
        by_position=settings.ordering == "position",
        indexed=catalog.leads_an_index(
            connection, _C(schema, "emt_messages").as_string(None), "global_position"
        ),
    )


class Emmett(Layout):
    """Emmett's tables in one schema."""

    name = "emmett"
    alive = sql.SQL("is_archived = FALSE")
    archived = _C("is_archived")
    reuses_names = True
    stream_column = _C("stream_id")
    appended_by = sql.SQL("mod(transaction_id::text::numeric, 4294967296)::bigint")
    documents = (
        Document("message_data", "data", checked=True),
        Document("message_metadata", "metadata", checked=True),
    )

    def __init__(self, variant: EmmettVariant) -> None:
        """`variant` says what the tables are like."""
        self._variant = variant
        self.schema = variant.schema
        newer = variant.processors == "emt_processors"
        self.version = "0.42 or later" if newer else "0.41 or earlier"
        self.events = variant.table("emt_messages")
        self.tenant_column, self.tenants = "partition", variant.tenants
        self.by_transactions = not variant.by_position
        self.order_indexed = variant.indexed or not variant.by_position
        self.mapped = Mapped(
            id=_C("message_id"),
            stream=_C("stream_id"),
            version=_C("stream_position"),
            type=_C("message_type"),
            data=_C("message_data"),
            metadata=_C("message_metadata"),
            recorded_at=_C("created"),
            tenant=_C("partition") if variant.tenants else NO_TENANT,
        )
        self.order_columns, self.order, self.order_casts = _order(variant.by_position)
        tables = ("emt_messages", "emt_streams", variant.processors)
        self.reads = tuple(variant.table(name) for name in tables)
        self.sequences = (variant.table(SEQUENCE),)
        if variant.tenant is not None:
            self.scope = sql.SQL("partition = {}").format(sql.Literal(variant.tenant))
        self.hidden_rows = True  # commands
        self.commands = sql.SQL("message_kind = 'C'")
        self.own = sql.SQL("message_kind = 'E' AND {}").format(self.scope)
        self.stream_table = _stream_table(variant, self.scope)
        self.used_again = used_again.statement(
            variant.table("emt_streams"),
            _C("s", "stream_id"),
            _C("s", "partition") if variant.tenants else NO_TENANT,
            ("stream_id", "partition"),
            self.scope,
        )
        self.archiving = emmett_archiving.archiving_rules(
            variant.schema, variant.tenants, variant.tenant, variant.by_position
        )
        self._appending = _appending(variant)
        (sequence,) = self.sequences
        numbers = NumberSequence(sequence, _newest_numbers(self.events))
        self._handing_over = HandingOver(
            variant.schema,
            variant.processors,
            variant.tenant,
            sequence,
            SequenceLockers(numbers, self.events.as_string(None)),
        )
        self.detail = {
            "ordering": "global position"
            if variant.by_position
            else "transaction id, global position",
            "processors": variant.processors,
        }

    def rule(self) -> SettleRule:
        """By transaction ids, as the library reads, unless the settings say otherwise."""
        (name,) = self.sequences
        settings = self._variant.settings
        if self._variant.by_position:
            return NumbersInOrder(
                NumberedEvents(
                    name,
                    self.events,
                    _C("global_position"),
                    settings.hole_threshold,
                    # Emmett draws a number by the default of its column, as it inserts.
                    watched=False,
                    promised=settings.append == "quick",
                    dead_after=settings.dead_after,
                    indexed=self._variant.indexed,
                )
            )
        return TransactionIds(NumberSequence(name, _newest_numbers(self.events)), self.warnings)

    def append(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        """What Emmett's append function does: the stream's row first, then its messages."""
        return self._appending.append(connection, stream, events, expected_version)

    def checkpoints(self, connection: psycopg.Connection) -> list[Checkpoint]:
        """Emmett's processors."""
        return processors.checkpoints(connection, self._where_processors())

    def _where_processors(self) -> processors.Processors:
        variant = self._variant
        return processors.Processors(
            variant.schema,
            variant.processors,
            variant.by_position,
            variant.tenants,
            variant.tenant,
            self.sequences[0],
        )

    def row_of(self, connection: psycopg.Connection, name: str) -> str | None:
        """The processor's row."""
        return self._handing_over.row_of(connection, name)

    def signs_of_life(self, connection: psycopg.Connection, name: str) -> str:
        """What the row says, and sessions that read as consumers do."""
        return processors.signs_of_life(connection, self._where_processors(), name)

    def check_checkpoint(self, connection: psycopg.Connection, name: str) -> None:
        """By its row, and by Emmett's own function."""
        self._handing_over.check(connection, name)

    def set_checkpoint(
        self, connection: psycopg.Connection, name: str, position: Position, *, stopped: bool
    ) -> str:
        """By Emmett's own function."""
        return self._handing_over.set_checkpoint(connection, name, position, stopped=stopped)

    def inline_tables(self, connection: psycopg.Connection) -> list[InlineTable]:
        """Those of the projections that no processor makes."""
        return inline.tables(connection, self.schema)

    def kept_tables(self, connection: psycopg.Connection) -> list[KeptTable]:
        """Those of the projections that a processor makes."""
        return inline.kept(connection, self.schema)

    def warnings(self, connection: psycopg.Connection) -> list[str]:
        """Events that a restore into another cluster made invisible."""
        return [] if self._variant.by_position else _from_the_future(connection, self.schema)

    def concerns(self, connection: psycopg.Connection) -> list[Concern]:
        """Names of archived streams that were used again."""
        return used_again.concerns(connection, self, _USED_AGAIN)

    def setting_hints(self, connection: psycopg.Connection) -> list[str]:
        """The other order."""
        del connection
        return [
            '# ordering = "position"           # reads by global position instead of transaction id'
        ]


def _order(
    by_position: bool,
) -> tuple[Sequence[sql.Composable], Sequence[sql.Composable], Sequence[str]]:
    """The columns of a position as an index has them, as they are selected, and their types."""
    number, transaction = _C("global_position"), _C("transaction_id")
    if by_position:
        return (number,), (number,), ("bigint",)
    # xid8 has no cast to bigint; it goes through text.
    selected = sql.SQL("transaction_id::text::bigint")
    return (transaction, number), (selected, number), ("xid8", "bigint")


def _newest_numbers(events: sql.Identifier) -> sql.Composed:
    """The lowest and highest of the newest numbers, which the library's own index leads to."""
    return sql.SQL(
        "SELECT min(global_position), max(global_position) FROM (SELECT global_position FROM {} "
        "ORDER BY transaction_id DESC, global_position DESC LIMIT 1000) AS newest"
    ).format(events)


def _stream_table(variant: EmmettVariant, scope: sql.Composable) -> StreamTable:
    return StreamTable(
        table=variant.table("emt_streams"),
        stream=_C("stream_id"),
        tenant=_C("partition") if variant.tenants else NO_TENANT,
        category=category_in(_C("stream_id")),
        length=_C("stream_position"),
        alive=sql.SQL("is_archived = FALSE"),
        in_category=lambda name: sql.SQL("split_part(stream_id, '-', 1) = {}").format(
            sql.Literal(name)
        ),
        note="the positions in emt_streams, without commands",
        left=sql.SQL(
            "(stream_position - coalesce((stream_metadata -> 'esops' ->> 'removed')::bigint, 0) - "
            "commands)"
        ),
        # Each message has a position, and a command is no event.
        counted_in=sql.SQL(
            "(SELECT s.*, coalesce(c.commands, 0) AS commands FROM {} AS s LEFT JOIN (SELECT "
            "stream_id, partition, is_archived, count(*) AS commands FROM {} WHERE message_kind = "
            "'C' GROUP BY 1, 2, 3) AS c USING (stream_id, partition, is_archived)) AS counted"
        ).format(variant.table("emt_streams"), variant.table("emt_messages")),
        scope=scope,
    )


def _appending(variant: EmmettVariant) -> AppendBesideStreamRow:
    names = {
        "streams": variant.table("emt_streams"),
        "messages": variant.table("emt_messages"),
        "partition": sql.Literal(variant.tenant or DEFAULT_PARTITION),
        "number": sql.SQL(", ").join(_order(variant.by_position)[1]),
    }
    return AppendBesideStreamRow(
        **{name: sql.SQL(text).format(**names) for name, text in _APPENDING.items()}
    )


def _from_the_future(connection: psycopg.Connection, schema: str) -> list[str]:
    """After a restore into another cluster, transaction ids may not have happened yet there; such
    events are invisible.
    """
    row = connection.execute(
        sql.SQL(
            "SELECT transaction_id::text FROM {} WHERE transaction_id >= "
            "pg_snapshot_xmax(pg_current_snapshot()) LIMIT 1"
        ).format(_C(schema, "emt_messages"))
    ).fetchone()
    if row is None:
        return []
    return [
        (
            f"there are events with transaction ids in this cluster's future (such as {row[0]}). "
            "They come from another cluster, and readers cannot see them. Read with "
            'ordering = "position", or raise the cluster\'s transaction counter.'
        )
    ]
