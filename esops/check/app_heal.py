"""Rows of a table that a processor of the application keeps: the statements that make them right.

Rows, and the processor's checkpoint, are looked at in one moment, and the rows are made again up to
there. Each statement names the version of the row that was looked at, and its values: it does
nothing where anybody has written the row since. esops runs them itself only where the processor has
certainly stopped, for one that runs may have the row in memory and write it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg

from esops.check.courses import StreamCourse, TooMuchSince
from esops.check.heal import Healed, is_unfit
from esops.check.served_rows import Differing, NotTaken, RowKey, ServedRows
from esops.check.standing import AppCheckpoint, TooSlow
from esops.errors import Busy, Refused, Stopped
from esops.postgres.connection import translated
from esops.readmodel.registry import Version
from esops.readmodel.rows import one_line
from esops.rebuild.refolded import pieces
from esops.rebuild.stopped_processor import StandingProcessor
from esops.stores.checkpoints import checkpoint_of

_PIECE, _ATTEMPTS = 200, 10


class AppHealer:
    """Finds the statements for some rows, and runs them where that is safe."""

    def __init__(
        self,
        connection: psycopg.Connection,
        version: Version,
        course: StreamCourse,
        table: ServedRows,
        processor: StandingProcessor,
        stop: Callable[[], bool],
    ) -> None:
        """The connection is the one in which the course makes rows, outside a transaction."""
        assert processor.name is not None
        self._connection, self._version, self._course = connection, version, course
        self._table, self._processor, self._stop = table, processor, stop
        self._standing = AppCheckpoint(connection, processor.store, processor.name)

    def run(self, keys: Sequence[RowKey], *, write: bool) -> Healed:
        """Compare the rows of some keys, and make right those that differ, where `write`.

        Raises Refused where they are to be written and the processor is not known to have stopped.
        """
        if write and not self._has_stopped():
            raise Refused(
                f"the application's processor {self._processor.name} is not known to have stopped, "
                "and one that runs may write rows back that it has in memory",
                hint="Stop it, and say so with --processor-stopped. Or look at the statements with "
                "--dry-run, and run them when it has stopped.",
            )
        result = Healed(self._version.projection, self._version.version, keys=len(keys))
        for some in pieces(keys, _PIECE):
            self._piece(some, result, write=write)
        return result

    def _has_stopped(self) -> bool:
        """Whether it has stopped; no word overrules a row that says that it is alive."""
        assert self._processor.name is not None
        there = checkpoint_of(self._processor.store, self._processor.name)
        return self._processor.stopped() and there is not None and there.alive != "yes"

    def _piece(self, keys: Sequence[RowKey], result: Healed, *, write: bool) -> None:
        left = list(keys)
        for _ in range(_ATTEMPTS):
            if self._stop():
                raise Stopped("stopped; the rows that were made right stay so")
            before = self._standing.position()
            unknown = self._course.bring(left, before)
            result.unknown.update(unknown)
            left = [each for each in left if each not in unknown]
            seen: list[tuple[Differing, list[tuple[RowKey, str]]]] = []
            try:
                at = self._standing.copy(lambda: seen.append(self._look(left)))  # noqa: B023
                touched = set(self._course.touched(left, before, at))
            except (TooMuchSince, TooSlow):
                continue
            found, statements = seen[-1]
            result.position = at
            result.add(Differing(*([k for k in some if k not in touched] for some in found)))
            ready = [(key, text) for key, text in statements if key not in touched]
            result.statements += [text for _, text in ready]
            if write and ready:
                self._write(ready, result)
            left = [each for each in left if each in touched]
            if not left:
                return
        raise Busy(
            f"the processor {self._processor.name} has written the rows of {len(left)} keys "
            "whenever esops looked",
            hint="Try again when it has less to do, or has stopped.",
        )

    def _look(self, keys: Sequence[RowKey]) -> tuple[Differing, list[tuple[RowKey, str]]]:
        found = self._table.differing(self._connection, keys)
        return found, list(self._table.guarded(self._connection, found))

    def _write(self, statements: Sequence[tuple[RowKey, str]], result: Healed) -> None:
        """In one transaction, at whose end the processor has still stopped where it was."""
        connection = self._connection
        with translated(), connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '500ms'")
            for key, each in statements:
                try:
                    with connection.transaction():
                        connection.execute(each.encode())
                        self._table.see_written(connection, [key])
                except (psycopg.Error, NotTaken) as error:
                    if not is_unfit(error):
                        raise
                    result.unfit[key] = one_line(error)
                    continue
                name = {"UPDATE": "updated", "DELETE": "deleted", "INSERT": "inserted"}[each[:6]]
                setattr(result, name, getattr(result, name) + 1)
            if self._standing.position() != result.position or not self._has_stopped():
                raise Refused(
                    f"the application's processor {self._processor.name} has begun to run again",
                    hint="Stop it, and run this again. What was written last is rolled back.",
                )
