"""What is known of streams that may be more than memory holds."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self


class DiskMap:
    """Facts about streams that may be many, in a temporary file instead of in memory."""

    def __init__(self) -> None:
        """Make the file; it is gone when this is closed, or when the process dies."""
        self._file = tempfile.NamedTemporaryFile(prefix="esops-archive-")  # noqa: SIM115 - closed by close()
        self._base = sqlite3.connect(self._file.name)
        self._base.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
            "CREATE TABLE notes (stream TEXT, tenant TEXT, value, PRIMARY KEY (stream, tenant)) "
            "WITHOUT ROWID;"
        )

    def put(self, stream: str, tenant: str, value: Any) -> None:
        """Note something of a stream, in place of what was noted before."""
        self._base.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (stream, tenant, value))

    def get(self, stream: str, tenant: str) -> Any:
        """What is noted of a stream; None where nothing is."""
        row = self._base.execute(
            "SELECT value FROM notes WHERE stream = ? AND tenant = ?", (stream, tenant)
        ).fetchone()
        return None if row is None else row[0]

    def take(self, stream: str, tenant: str) -> Any:
        """What is noted of a stream, which is forgotten; None where nothing is."""
        found = self.get(stream, tenant)
        self._base.execute("DELETE FROM notes WHERE stream = ? AND tenant = ?", (stream, tenant))
        return found

    def close(self) -> None:
        """Forget all of it."""
        self._base.close()
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        """All that is noted, by stream and tenant."""
        return (
            value
            for (value,) in self._base.execute("SELECT value FROM notes ORDER BY stream, tenant")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
