"""Facts about streams, of which there may be more than memory holds."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self


class DiskMap:
    """A map from streams to values, in a temporary file instead of in memory. A context manager."""

    def __init__(self) -> None:
        """Create the file, which is deleted on `close` and when the process ends."""
        self._file = tempfile.NamedTemporaryFile(prefix="esops-archive-")  # noqa: SIM115 - closed by close()
        self._base = sqlite3.connect(self._file.name)
        # A temporary file needs no protection against a crash, and is faster without.
        self._base.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
            "CREATE TABLE facts (stream TEXT, tenant TEXT, value, PRIMARY KEY (stream, tenant)) "
            "WITHOUT ROWID;"
        )

    def put(self, stream: str, tenant: str, value: Any) -> None:
        """Note something of a stream, in place of what was noted before."""
        self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (stream, tenant, value))

    def get(self, stream: str, tenant: str) -> Any:
        """What is noted of a stream; None where nothing is."""
        row = self._base.execute(
            "SELECT value FROM facts WHERE stream = ? AND tenant = ?", (stream, tenant)
        ).fetchone()
        return None if row is None else row[0]

    def take(self, stream: str, tenant: str) -> Any:
        """What is noted of a stream, which is forgotten; None where nothing is."""
        found = self.get(stream, tenant)
        self._base.execute("DELETE FROM facts WHERE stream = ? AND tenant = ?", (stream, tenant))
        return found

    def close(self) -> None:
        """Forget all of it."""
        self._base.close()
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        """All that is noted, by stream and tenant."""
        # Asked when the first is wanted: the answer begins to be read where it is asked for.
        rows = "SELECT value FROM facts ORDER BY stream, tenant"
        for (value,) in self._base.execute(rows):
            yield value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
