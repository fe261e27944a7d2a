"""Marten's tables (6 to 9): mt_streams, mt_events, mt_event_progression.

Numbers come from `mt_events_sequence`. The quick modes draw them inside the appending transaction,
and the rich one possibly outside of it. So missing numbers are watched unless the store says
`append = "quick"`. Facts: Marten's schema sources (src/Marten/Events/Schema) and its daemon's gap
detection; see docs/reference/layouts.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from esops.errors import NoTenant, UsageError
from esops.events import Checkpoint, NewEvent, Position
from esops.postgres import catalog
from esops.settings import PostgresSettings
from esops.stores.inline_tables import InlineTable, KeptTable
from esops.stores.parts import Concern
from esops.stores.postgres import used_again
from esops.stores.postgres.layouts.base import (
    NO_TENANT,
    Layout,
    Mapped,
)
from esops.stores.postgres.layouts.expressions import same_uuid
from esops.stores.postgres.layouts.marten import archiving as marten_archiving
from esops.stores.postgres.layouts.marten import daemon, inline, liveness
from esops.stores.postgres.layouts.marten.appending import appending_of
from esops.stores.postgres.layouts.marten.columns import documents_of, metadata_of, stream_table_of
from esops.stores.postgres.layouts.marten.times import Times
from esops.stores.postgres.layouts.marten.variant import (
    DEFAULT_TENANT,
    MartenVariant,
    absent_tenant,
    check_tenant,
    read_variant,
    sequences_of_tenants,
)
from esops.stores.postgres.missing import NumbersInOrder
from esops.stores.postgres.numbered_events import NumberedEvents
from esops.stores.postgres.settle import SettleRule

_USED_AGAIN = (
    "Let Marten keep ids unique (UseArchivedStreamPartitioning with mt_streams_identity), and "
    "archive the second by hand."
)
_C = sql.Identifier
_QUICK = (
    '# append = "quick"                # if all writers use quick appends; then esops need not '
    "watch missing numbers"
)
_RICH = (
    "# Writers use rich appends (there is no function for quick ones), so esops watches missing "
    "numbers."
)


def detect(connection: psycopg.Connection, settings: PostgresSettings) -> list[Marten]:
    """Marten's stores in a database, each in the variant that its catalogue shows.

    Where each tenant's events are numbered on their own they have no common order, so that each
    tenant is a store.
    """
    found, refused = list[Marten](), list[UsageError]()
    for schema in catalog.schemas_with(connection, "mt_events", "mt_streams"):
        if settings.db_schema is None or schema == settings.db_schema:
            try:
                found += _in_schema(connection, schema, settings)
            except UsageError as error:
                refused.append(error)
    if refused and not found:
        raise refused[0]
    return found


def _in_schema(
    connection: psycopg.Connection, schema: str, settings: PostgresSettings
) -> list[Marten]:
    """Raises UsageError where the schema cannot have the tenant of the settings."""
    own_numbers = sequences_of_tenants(connection, schema)
    if own_numbers and settings.tenant is not None and settings.tenant not in own_numbers:
        raise NoTenant(
            f"schema {schema!r} has no numbers for a tenant {settings.tenant!r}",
            hint="There is: " + ", ".join(own_numbers),
        )
    found = []
    for tenant in (
        list(own_numbers) if own_numbers and settings.tenant is None else [settings.tenant]
    ):
        variant = read_variant(connection, schema, tenant, own_numbers.get(tenant or ""))
        check_tenant(connection, variant)
        found.append(Marten(connection, variant, settings))
    return found


class Marten(Layout):
    """Marten's tables in one schema."""

    name = "marten"
    order = order_columns = (_C("seq_id"),)
    order_casts = ("bigint",)
    id_column = _C("id")
    stream_column = _C("stream_id")
    compacts = True
    # Sent with each append where UseListenNotifyForEventAppends is set; in all schemas the same.
    channel = "mt_events_appended"
    appended_by = sql.SQL("xmin::text::bigint")

    def __init__(
        self, connection: psycopg.Connection, variant: MartenVariant, settings: PostgresSettings
    ) -> None:
        """`variant` says what the tables are like."""
        self._variant, self._settings = variant, settings
        self.schema, self.version = variant.schema, variant.versions
        self.events = variant.table("mt_events")
        self.sequences = (variant.table(variant.sequence_name),)
        names = ("mt_events", "mt_streams", "mt_event_progression", *daemon.TABLES)
        there = catalog.there(connection, variant.schema, *names)
        self.reads = tuple(variant.table(name) for name in names if name in there)
        self._set_conditions()
        self._set_columns()
        if variant.own_numbers:
            tenant = sql.Literal(variant.tenant or DEFAULT_TENANT)
            self.numbered = sql.SQL("tenant_id = {}").format(tenant)
        self.tenants = variant.conjoined and variant.tenant is None
        self.stream_table = stream_table_of(variant)
        # Only a key with the mark in it lets an id be used on both sides.
        if "is_archived" in variant.streams.key:
            key = [each for each in variant.streams.key if each != "is_archived"]
            own = self.stream_table
            self.used_again = used_again.statement(
                own.table, own.stream, own.tenant, key, own.scope
            )
        self.times = self._times = Times(variant)
        self.archiving = marten_archiving.archiving_rules(connection, variant)
        self._appending = appending_of(variant)
        self.detail = {
            "stream ids": "text" if variant.text_ids else "uuid",
            "tenancy": "conjoined" if variant.conjoined else "single",
            "partitioned by": ", ".join(variant.events.partitioned_by) or "nothing",
            "append": settings.append,
            **({"tenant": variant.tenant} if variant.own_numbers and variant.tenant else {}),
        }

    def _set_conditions(self) -> None:
        variant = self._variant
        if variant.tenant is not None and variant.events.has("tenant_id"):
            self.tenant_column = "tenant_id"
            self.scope = sql.SQL("tenant_id = {}").format(sql.Literal(variant.tenant))
        # Where an append fails, Marten fills the numbers that it had drawn with tombstones.
        own: list[sql.Composable] = [sql.SQL("type <> 'tombstone'")]
        # Events that an operator marked: Marten's own readers leave them out, too.
        if variant.events.has("is_skipped"):
            own.append(sql.SQL("is_skipped IS NOT TRUE"))
            self.hidden_rows = True
        self.own = sql.SQL(" AND ").join([*own, self.scope])
        # Then the flag is in the keys, and a name that was archived may be used again.
        self.reuses_names = "is_archived" in variant.events.partitioned_by
        if variant.archivable:
            self.alive = sql.SQL("is_archived IS NOT TRUE")
            self.archived = sql.SQL("is_archived IS TRUE")

    def _set_columns(self) -> None:
        variant = self._variant
        data: sql.Composable = _C("data")
        if variant.binary:
            # One type for both, since the columns of a CASE must agree.
            data = sql.SQL(
                "CASE WHEN bdata IS NULL THEN convert_to(data::text, 'UTF8') ELSE bdata END"
            )
            self.payloads = (_C("bdata"), _C("data"))
        # The tenant tells streams apart only in these two variants.
        own_tenant = variant.conjoined or variant.own_numbers
        self.mapped = Mapped(
            id=sql.SQL("id::text"),
            stream=_C("stream_id") if variant.text_ids else sql.SQL("stream_id::text"),
            version=_C("version"),
            type=_C("type"),
            data=data,
            metadata=metadata_of(variant),
            recorded_at=_C("timestamp"),
            tenant=_C("tenant_id") if own_tenant else NO_TENANT,
        )
        self.documents = documents_of(variant)
        self.stream_kind = variant.id_kind
        self.fields = {key: _C(column) for key, column in variant.metadata if key != "headers"}
        self.loose = _C("headers") if variant.events.has("headers") else None

    def rule(self) -> SettleRule:
        """Numbers in their order, missing ones watched unless all writers append quickly."""
        (sequence,) = self.sequences
        promised = self._settings.append == "quick"
        return NumbersInOrder(
            NumberedEvents(
                sequence,
                self.events,
                _C("seq_id"),
                self._settings.hole_threshold,
                watched=not promised,
                promised=promised,
                dead_after=self._settings.dead_after,
                numbered=self.numbered,
                # A rich append waits here where another one has the same stream.
                locked_first=[sql.Identifier(self.schema, "mt_streams")],
                passed_by_library=self._passed_by_daemon,
            )
        )

    def _passed_by_daemon(self, connection: psycopg.Connection) -> int | None:
        variant = self._variant
        if not variant.has_progression:
            return None
        tenant = variant.tenant if variant.own_numbers else None
        return daemon.high_water_mark(connection, variant.schema, tenant)

    def append(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        """What Marten's quick append does."""
        return self._appending.append(connection, stream, events, expected_version)

    def checkpoints(self, connection: psycopg.Connection) -> list[Checkpoint]:
        """The daemon's shards and its high-water mark."""
        numbered, variant = self._numbered_tenant, self._variant
        floors_of = {numbered} if numbered is not None else {DEFAULT_TENANT}
        if variant.conjoined and variant.tenant is not None and numbered is None:
            floors_of.add(variant.tenant)
        every = variant.conjoined and variant.tenant is None
        return daemon.checkpoints(connection, self.schema, numbered, None if every else floors_of)

    def absent_tenant(self, connection: psycopg.Connection) -> str | None:
        """Of tables that several tenants share."""
        return absent_tenant(connection, self._variant)

    def row_of(self, connection: psycopg.Connection, name: str) -> str | None:
        """The whole row: a shard that works touches it."""
        return daemon.row_of(connection, self.schema, name)

    def signs_of_life(self, connection: psycopg.Connection, name: str) -> str:
        """Those of any daemon, which may run this shard."""
        return liveness.signs(connection, self.schema, name)

    def check_checkpoint(self, connection: psycopg.Connection, name: str) -> None:
        """By its row."""
        daemon.check_row(connection, self.schema, name, tenant=self._numbered_tenant)

    def set_checkpoint(
        self, connection: psycopg.Connection, name: str, position: Position, *, stopped: bool
    ) -> str:
        """A shard's progress."""
        return daemon.set_checkpoint(
            connection,
            self.schema,
            name,
            position,
            sequence=self.sequences[0],
            tenant=self._numbered_tenant,
            stopped=stopped,
        )

    @property
    def _numbered_tenant(self) -> str | None:
        """The tenant that is read, where each has numbers of its own."""
        variant = self._variant
        return (variant.tenant or DEFAULT_TENANT) if variant.own_numbers else None

    def inline_tables(self, connection: psycopg.Connection) -> list[InlineTable]:
        """Those without the progress of a projection."""
        return inline.tables(connection)

    def kept_tables(self, connection: psycopg.Connection) -> list[KeptTable]:
        """Those with the progress of a projection."""
        return inline.kept(connection)

    def concerns(self, connection: psycopg.Connection) -> list[Concern]:
        """Ids that name two streams, and progress that nobody makes any more."""
        twice = used_again.concerns(connection, self, _USED_AGAIN)
        return [
            *twice,
            *daemon.concerns(connection, self.schema),
            *self._times.concerns(connection),
        ]

    def setting_hints(self, connection: psycopg.Connection) -> list[str]:
        """How the application appends, as far as its functions tell."""
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname = %s AND p.proname = 'mt_quick_append_events')",
            (self.schema,),
        ).fetchone()
        if row is not None and row[0]:
            return [_QUICK]
        return [_RICH]

    def in_category(self, name: str) -> sql.Composable:
        """A category is the aggregate type of the stream; with text ids also what stands before the
        first `-`.
        """
        variant = self._variant
        # A subquery rather than a join: it stays a condition that can stand beside others.
        by_type = sql.SQL("({}) IN (SELECT {} FROM {} WHERE type = {})").format(
            sql.SQL("tenant_id, stream_id" if variant.conjoined else "stream_id"),
            sql.SQL("tenant_id, id" if variant.conjoined else "id"),
            variant.table("mt_streams"),
            sql.Literal(name),
        )
        if not variant.text_ids:
            return by_type
        by_name = sql.SQL("split_part(stream_id, '-', 1) = {}").format(sql.Literal(name))
        return sql.SQL("({} OR {})").format(by_type, by_name)

    def stream_equals(self, name: str) -> sql.Composable:
        """By text or uuid."""
        if self._variant.text_ids:
            return sql.SQL("stream_id = {}").format(sql.Literal(name))
        return same_uuid(_C("stream_id"), name)
