"""Are the rows of a version that does not advance what the code of today makes of their events?

That is the proof that the code is the one that made them, and that what was noted of the version is
true. Rows are taken where a mistake would show: those of events around the switch, those that the
version that serves does not have, and some at random. Only the events that are in the rows count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from esops.errors import Refused, Stopped
from esops.events import StreamKey
from esops.postgres import catalog
from esops.postgres.connection import qualified
from esops.postgres.statements import statements
from esops.projections.definition import FoldDefinition
from esops.readmodel.registry import Version
from esops.rebuild.refolded import Key, RefoldedRows, pieces
from esops.rebuild.target import Target
from esops.rebuild.verification.comparison import keys_unlike
from esops.running.visible import Standing
from esops.stores.base import EventStore

_SQL = statements(__package__, "standing_rows")
MOST = 1_000
"""Rows of each of these three that are looked at."""
MOST_ONLY_HERE = 100_000
"""Rows that the version that serves does not have, of which each one's stream is looked for."""
_BATCH = 50
_FEW_PAGES = 500


@dataclass
class Checked:
    """What was found: how many rows were looked at; those that the code makes otherwise; those of
    streams that are gone, which the version that serves does not have either, and whether there are
    more than were looked for; and the Python types of the columns.
    """

    rows: int = 0
    unlike: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    more_only_here: bool = False
    types: Mapping[str, str] = field(default_factory=dict)


class StandingRows:
    """Looks at rows of one version."""

    def __init__(
        self,
        connection: psycopg.Connection,
        store: EventStore,
        target: Target,
        version: Version,
        standing: Standing,
    ) -> None:
        """Raises Refused where events and table are not in one database any more."""
        assert isinstance(target.definition, FoldDefinition)
        self._connection, self._store, self._version = connection, store, version
        self._filter, self._standing = target.settings.filter, standing
        verify = target.settings.verify
        self._rows = RefoldedRows(connection, store, version, target.definition, verify)

    def check(
        self, serving: Version, around: Sequence[StreamKey], stop: Callable[[], bool]
    ) -> Checked:
        """Look at some rows. `around` are the streams of the events around the switch.

        Raises Refused where the code fails, and Stopped.
        """
        found = Checked()
        only_here = self._only_here(serving)
        living = {self._rows.key(each) for each in self._streams(only_here)}
        found.deleted = sorted(self._name(key) for key in only_here if key not in living)
        found.more_only_here = len(only_here) > MOST_ONLY_HERE
        keys = dict.fromkeys([*only_here[:MOST], *self._random()])
        streams = dict.fromkeys([*around[:MOST], *self._streams(list(keys))])
        for some in pieces(streams, _BATCH):
            if stop():
                raise Stopped("stopped; nothing was changed")
            with self._connection.transaction():
                self._look(some, found)
        return found

    def _look(self, streams: Sequence[StreamKey], found: Checked) -> None:
        events, short = self._rows.inline.whole(self._connection, streams, self._filter)
        gone = set(short)
        events = [
            each
            for each in events
            if StreamKey(each.stream, each.tenant) not in gone and self._standing.has(each.position)
        ]
        found.types = {**found.types, **self._rows.make(events)}
        here = self._rows.there(self._rows.key(each) for each in streams if each not in gone)
        made = self._rows.made()
        unlike = {tuple(key) for _, *key in keys_unlike(self._connection, self._rows.sides)}
        found.rows += len(here | made)
        found.unlike += sorted(self._name(key) for key in unlike | (here - made))

    def _streams(self, keys: Sequence[Key]) -> Iterator[StreamKey]:
        """The streams of rows, as far as they have events."""
        wanted = set(keys)
        for some in pieces(keys, MOST):
            names = sorted({self._name(key) for key in some})
            for each in self._rows.inline.streams(self._connection, names):
                if self._rows.key(each) in wanted:
                    yield each

    def _name(self, key: Key) -> str:
        """The name of the stream whose row has a key, which may have a tenant before or after."""
        return self._rows.stream(key).stream

    def _random(self) -> list[Key]:
        table = self._rows.name.as_string(self._connection)
        row = self._connection.execute(
            sql.SQL(_SQL["pages"]).format(table=sql.Literal(table))
        ).fetchone()
        assert row is not None
        pages = int(row[0])
        sample: sql.Composable = sql.SQL("")
        if pages > _FEW_PAGES:
            percent = sql.Literal(100 * _FEW_PAGES / pages)
            sample = sql.SQL("TABLESAMPLE SYSTEM ({})").format(percent)
        return self._keys("random", table=self._rows.name, sample=sample, most=sql.Literal(MOST))

    def _only_here(self, serving: Version) -> list[Key]:
        if catalog.find_table(self._connection, *serving.table) is None:
            raise Refused(f"the table {'.'.join(serving.table)} does not exist any more")
        return self._keys(
            "only_here",
            table=self._rows.name,
            serving=qualified(*serving.table),
            same=self._rows.same_key(),
            most=sql.Literal(MOST_ONLY_HERE + 1),
        )

    def _keys(self, which: str, **parts: sql.Composable) -> list[Key]:
        statement = sql.SQL(_SQL[which]).format(key=self._rows.key_of("l"), **parts)
        return self._connection.execute(statement).fetchall()
