"""How Emmett's streams leave and come back: to its archived partitions, or deleted behind a stream
row that stays.
"""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from esops.postgres.statements import statements
from esops.stores.postgres.layouts.archiving import (
    STREAMS,
    LayoutArchiving,
    SqlHeads,
    SqlRemoval,
)
from esops.stores.postgres.layouts.base import NO_TENANT

_EVENT = {
    "stream": "stream_id",
    "version": "stream_position",
    "type": "message_type",
    "id": "message_id",
    "data": "message_data",
    "metadata": "message_metadata",
    "recorded_at": "created",
}
_BEGINS = (
    "An append to the name of a removed stream begins a second stream at version 1, since Emmett "
    'looks only at rows that are not archived. With reuse = "refuse" in the policy it continues '
    "behind the last version instead."
)
_CONTINUES = (
    "An append to the name of a removed stream continues behind its last version. One that expects "
    "an earlier version is refused; STREAM_DOES_NOT_EXIST is not, where Emmett (0.42) takes it for "
    "no expectation."
)
_SQL = statements(__package__, "archiving")
_C = sql.Identifier


def archiving_rules(
    schema: str, tenants: bool, tenant: str | None, by_position: bool
) -> LayoutArchiving:
    """Streams and messages move to the archived partitions together; a stream's row stays when its
    messages are deleted.
    """
    made = _made(schema, tenants, tenant)
    # Writers insert or update the stream's row first (emt_append_to_stream): it is what to lock.
    return LayoutArchiving(
        columns=_EVENT,
        position=("global_position",) if by_position else ("transaction_id", "global_position"),
        beside=("is_archived",),
        streams=(_C(schema, "emt_streams"),),
        guard=made["guard"],
        of_stream=sql.SQL(
            "e.stream_id = k.stream AND e.partition = {} AND e.is_archived = FALSE"
        ).format(_partition("e", tenants, tenant)),
        of_any=sql.SQL("e.stream_id = k.stream AND e.partition = {}").format(
            _partition("e", tenants, tenant)
        ),
        of_row=sql.SQL("s.stream_id = k.stream AND s.partition = {}").format(
            _partition("s", tenants, tenant)
        ),
        twice=made["twice"],
        removals={"archive": _moving(made), "delete": _deleting(made)},
        # By it the library reads: what an older transaction wrote, its consumers have passed.
        renewed={"transaction_id": sql.SQL("pg_current_xact_id()")},
        advance=(made["advance"], made["note_removed"]),
        revive=(made["revive_events"], made["revive_streams"]),
        row=made["row"],
    )


def _moving(made: Mapping[str, sql.Composed]) -> SqlRemoval:
    return SqlRemoval(
        end=(made["archive_events"], made["archive_streams"]),
        what="moves messages and streams to the archived partitions",
        reuse="begins",
        again=_BEGINS,
        continuing=SqlRemoval(
            end=(made["archive_events"], made["keep_streams"]),
            what="moves messages to the archived partitions; each stream's row stays as "
            "it is, with a note of how many messages have left",
            reuse="continues",
            again=_CONTINUES,
            marks=("is_archived", "stream_metadata"),
        ),
    )


def _deleting(made: Mapping[str, sql.Composed]) -> SqlRemoval:
    return SqlRemoval(
        deletes=True,
        end=(made["archive_streams"],),
        what="deletes messages; each stream's row stays, marked as archived",
        reuse="begins",
        again=_BEGINS,
        continuing=SqlRemoval(
            deletes=True,
            end=(made["keep_streams"],),
            what="deletes messages; each stream's row stays as it is, with a note of how "
            "many messages have left",
            reuse="continues",
            again=_CONTINUES,
        ),
        heads=SqlHeads(made["head_limits"], until_only=True),
    )


def _partition(table: str, tenants: bool, tenant: str | None) -> sql.Composable:
    """Which partition a stream of the request is in: that of its tenant where there are several,
    the one that was asked for, or else the only one that there is.
    """
    if tenants:
        return sql.SQL("k.tenant")
    return sql.Literal(tenant) if tenant is not None else _C(table, "partition")


def _made(schema: str, tenants: bool, tenant: str | None) -> dict[str, sql.Composed]:
    """The statements of archiving.sql for a schema, by their names."""

    def partition(table: str) -> sql.Composable:
        return _partition(table, tenants, tenant)

    names = {
        "streams": _C(schema, "emt_streams"),
        "messages": _C(schema, "emt_messages"),
        "k": STREAMS,
        "own_tenant": _C("s", "partition") if tenants else NO_TENANT,
        "any_partition": sql.SQL("ANY(%(tenant)s::text[])") if tenants else partition("s"),
        "of_streams": sql.SQL("s.stream_id = k.stream AND s.partition = {}").format(partition("s")),
        "of_messages": sql.SQL("m.stream_id = k.stream AND m.partition = {}").format(
            partition("m")
        ),
    }
    return {name: sql.SQL(text).format(**names) for name, text in _SQL.items()}
