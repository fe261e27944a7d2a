"""The file that --output-file names: whole, or not there."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from esops.errors import UsageError


class ResultFile:
    """Takes the result of a command, and puts it in place when the command has ended.

    Until then it is written beside it, as FILE.part: a reader never sees half a result, and a
    command that fails leaves the last one as it is.
    """

    def __init__(self, path: Path) -> None:
        """Remember the file; it is opened when something is written. Raises UsageError."""
        if not path.parent.is_dir():
            raise UsageError(f"--output-file: there is no folder {path.parent}")
        self.path = path
        # A device or a named pipe is written to as it is.
        special = path.exists() and not path.is_file()
        self._part = path if special else path.with_name(f"{path.name}.part")
        self._stream: TextIO | None = None
        self.left = False
        """Set by a command that writes the file by itself."""

    def write(self, text: str) -> int:
        """Write text."""
        return self._opened().write(text)

    def flush(self) -> None:
        """Hand what is written to the system."""
        if self._stream is not None:
            self._stream.flush()

    def isatty(self) -> bool:
        """False: a file gets what a pipe gets."""
        return False

    def __enter__(self) -> Self:
        """The file is written to until the context ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the result in place; drop it where the command failed."""
        if self.left:
            return
        # A command that writes nothing has an empty result, and the file must say so.
        stream = self._opened() if kind is None else self._stream
        if stream is None:
            return
        stream.close()
        if self._part == self.path:
            return
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink()

    def _opened(self) -> TextIO:
        if self._stream is None:
            try:
                self._stream = self._part.open("w", encoding="utf-8")
            except OSError as error:
                raise UsageError(f"--output-file: {error.strerror}: {self._part}") from None
        return self._stream
