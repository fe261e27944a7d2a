"""The spill that an Applier has: beginning one, finding the one of a process before, and dropping
one that cannot be used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import structlog

from esops.errors import AnotherLog
from esops.events import Position
from esops.postgres.connection import database_of, translated
from esops.projections.definition import FoldDefinition
from esops.projections.kinds.fold_key import of_stream
from esops.readmodel import spills
from esops.readmodel.spills import Spill
from esops.running.apply import Applier
from esops.running.spill.directory import (
    PREFIX,
    DirectoryOwner,
    NoRoom,
    SpillDirectory,
    here,
    remove_of,
    remove_others,
)
from esops.running.spill.frames import DamagedSpill
from esops.running.spill.shown import ShownSoFar, Types
from esops.running.spill.worth import RowsInMemory
from esops.running.spill.writing import PartitionWriter
from esops.wording import size

log = structlog.get_logger("esops.spill")


class SpillOwner(Applier):
    """An Applier that may have a spill.

    The row of the database says that there is one, and how much of it is in the table; the
    directory has the events. `_files` is open as long as `_spill` is there.
    """

    _spill: Spill | None = None
    _files: SpillDirectory | None = None
    _writer: PartitionWriter | None = None
    _swept = False
    _began = 0.0
    """When this process opened the version first."""
    _without = False
    """Whether the load has to do without a spill, since there is no room for one, or since its rows
    would not be those of a load in memory.
    """

    def _open(self, lock_patience: timedelta) -> None:
        self._began = self._began or time.monotonic()
        super()._open(lock_patience)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        self._memory = RowsInMemory(self._projector, self._tables, self.events)
        version = self._checkpoint.version
        if not isinstance(self._work.definition, FoldDefinition) or version.state != "building":
            return
        self._without |= spills.is_without(self.connection, version)
        self._spill = found = spills.spill_of(self.connection, version, self._shard_number)
        if self._files is not None and (found is None or self._files.spill != found.spill):
            self._files.remove()
            self._files = self._writer = None
        if not self._swept:
            self._swept = True
            self._sweep(self._database())
        if found is None:
            return
        try:
            self._check_usable(found)
            if self._files is None:
                self._files = SpillDirectory.open(Path(found.directory), found, self._limit)
                self._check_log(self._files)
        except DamagedSpill as damaged:
            where = "" if found.host == here() else f" (it was made on {found.host})"
            self._drop_spill(f"{found.directory} cannot be used{where}: {damaged}")

    @property
    def _shard_number(self) -> int | None:
        return None if self._work.shard is None else self._work.shard[0]

    @property
    def _limit(self) -> int:
        shard = self._work.shard
        return self._work.spill_limit // (shard[1] if shard else 1)

    @property
    def _files_events(self) -> int:
        return self._files.events if self._files is not None else 0

    def _check_usable(self, found: Spill) -> None:
        if found.stale is not None:
            raise DamagedSpill(found.stale)
        if found.fingerprint != self._checkpoint.version.fingerprint:
            raise DamagedSpill("the code has changed since, and may make other keys")

    def _check_log(self, files: SpillDirectory) -> None:
        """Raises DamagedSpill where the events were read from another log."""
        identity, kept = self._store.identity, files.manifest.mark
        if identity is None or kept is None:
            return
        try:
            identity.recognise(Position.parse(kept["position"]), kept["mark"])
        except AnotherLog as other:
            files.close()
            self._files = None
            raise DamagedSpill(f"the store's log is another one: {other.message}") from None

    def _drop_spill(self, why: str) -> None:
        """Do without a spill that cannot be used: continue at the checkpoint, or, where some of its
        events are in the table, begin the load again.
        """
        spill, version = self._spill, self._checkpoint.version
        assert spill is not None
        if spill.applied:
            self._say(f"{why}. The load begins again, since a part of it was applied already")
            self._start_again()
        else:
            self._say(f"{why}. The load continues without it at {self.position or 'the beginning'}")
            spills.drop(self.connection, spill)
        log.warning("spill dropped", projection=version.projection, reason=why)
        if self._files is not None:
            self._files.remove()
            self._files = None
        remove_of(spill.directory, spill.spill)
        self._writer = None
        self._load_checkpoint()

    def _start_again(self, *, unspilled: bool = False) -> None:
        version, shard = self._checkpoint.version, self._work.shard
        _, key = self._tables.only
        stream = key[of_stream(key).index("stream")]
        spills.start_again(self.connection, version, shard, stream, unspilled=unspilled)
        # Whoever shows the progress adds what was done before this process.
        self.events -= version.events

    def _begin_spill(self, partitions: int, changes: Sequence[tuple[Position, Types]] = ()) -> None:
        """Begin a spill at the checkpoint; `changes` are those of `ShownSoFar`."""
        version = self._checkpoint.version
        shown = ShownSoFar(version.value_types, () if version.events else changes)
        base, name = self._work.spill, uuid4().hex
        spill = Spill(
            spill=name,
            shard=self._shard_number,
            host=here(),
            directory=str(base / f"{PREFIX}{name}"),
            fingerprint=version.fingerprint,
            fresh=version.events == 0,
            until=None,
            partitions=partitions,
        )
        with translated():
            database = self._database()
        owner = DirectoryOwner(database, version.projection, version.version, name, spill.host)
        with translated():
            if not spill.fresh:
                self._ensure_keys()
            self._sweep(database)
            # The row comes first: nobody takes the directory for one that is left over.
            spills.begin(self.connection, version, spill)
        try:
            self._files = SpillDirectory.create(
                Path(spill.directory), owner, spill.partitions, self._limit, shown
            )
        except (OSError, NoRoom, DamagedSpill) as error:
            self._do_without(spill, str(error))
            return
        self._spill = spill
        self._say(
            f"the rows of all keys do not fit into memory (cache = {size(self._work.cache)}): "
            f"the events are sorted into files in {base} first, in {spill.partitions} partitions"
        )

    def _sweep(self, database: str) -> None:
        """Delete what processes that were killed have left."""
        if database:
            remove_others(self._work.spill, database, spills.known(self.connection))

    def _database(self) -> str:
        """What names the read model's database; empty where the role may not ask."""
        try:
            return database_of(self.connection)
        except psycopg.errors.InsufficientPrivilege:
            return ""

    def _do_without(self, spill: Spill, why: str) -> None:
        """Load without a spill, which is slower and needs no room."""
        self._say(
            f"{why}. The load continues without spilling, which is slower: rows that do not fit "
            "into memory are written and read again"
        )
        log.warning("no spill", projection=self._work.projection, reason=why)
        with translated():
            spills.drop(self.connection, spill)
        if self._files is not None:
            self._files.remove()
        remove_of(spill.directory, spill.spill)
        self._without, self._spill, self._files, self._writer = True, None, None, None

    def close(self) -> None:
        """Close the connection, and leave the directory of a spill to whoever continues."""
        super().close()
        if self._files is not None:
            self._files.close()
            self._files = None
