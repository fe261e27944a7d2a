"""A file that a command writes for its user (--output-file, --report): whole, or not there."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from esops.errors import UsageError, unwritten


class ResultFile:
    """Takes the result of a command, and puts it in place when the command has ended.

    Until then it is written beside it, under a name of its own: a reader never sees half a result,
    and a command that fails leaves the last one as it is. The file keeps its mode, and a symbolic
    link stays one.
    """

    def __init__(self, path: Path, option: str = "--output-file") -> None:
        """Check that the file can be written, before the command does anything.

        It is opened when something is written. Raises UsageError, which names the option.
        """
        if not path.name:
            raise UsageError(f"{option}: the name of the file is empty")
        if not path.parent.is_dir():
            raise UsageError(
                f"{option}: there is no folder {path.parent}",
                hint=f"Make it (mkdir -p {path.parent}), or name another file.",
            )
        self._option = option
        self.path = path
        self._target = path.resolve()
        # A device or a named pipe is written to as it is.
        self._special = self._target.exists() and not self._target.is_file()
        try:
            self._check()
        except OSError as error:
            raise UsageError(f"{option}: {error.strerror}: {path}") from None
        self._part: Path | None = None
        self._stream: TextIO | None = None
        self.left = False
        """Set by a command that writes the file by itself."""

    def _check(self) -> None:
        if self._target.is_dir():
            raise IsADirectoryError(21, "this is a folder")
        if not self._special:
            # Only making a file there tells: rights, quotas and read-only mounts are all in it.
            tempfile.TemporaryFile(dir=self._target.parent).close()
        elif not os.access(self._target, os.W_OK):
            raise PermissionError(13, "Permission denied")

    def write(self, text: str) -> int:
        """Write text. Raises Unavailable where the system does not take it."""
        with self._reported():
            return self._opened().write(text)

    def flush(self) -> None:
        """Hand what is written to the system. Raises Unavailable where it does not take it."""
        if self._stream is not None:
            with self._reported():
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
        try:
            with self._reported(quietly=kind is not None):
                # A command that writes nothing has an empty result, and the file must say so.
                stream = self._opened() if kind is None else self._stream
                if stream is not None:
                    stream.close()
                if kind is None and self._part is not None:
                    self._part.replace(self._target)
                    self._part = None
        finally:
            if self._part is not None:
                self._part.unlink(missing_ok=True)

    def _opened(self) -> TextIO:
        if self._stream is None:
            if self._special:
                self._stream = self._target.open("w", encoding="utf-8")
            else:
                handle, part = tempfile.mkstemp(
                    prefix=f".{self._target.name}.", suffix=".part", dir=self._target.parent
                )
                self._part = Path(part)
                os.fchmod(handle, self._mode())
                self._stream = os.fdopen(handle, "w", encoding="utf-8")
        return self._stream

    def _mode(self) -> int:
        """The mode of the file that is there, or of a new one."""
        if self._target.exists():
            return stat.S_IMODE(self._target.stat().st_mode)
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask

    @contextmanager
    def _reported(self, quietly: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Where the command failed, its own error is the one to show.
            if not quietly:
                raise unwritten(f"{self._option} {self.path}", error) from None


def checked(path: Path | None, option: str) -> None:
    """Raises UsageError where a file that an option names cannot be written, before work begins."""
    if path is not None:
        ResultFile(path, option)


def write_page(path: Path, text: str, option: str = "--report") -> None:
    """Write a page as a whole. Raises UsageError, and Unavailable where the disk is full."""
    with ResultFile(path, option) as file:
        file.write(text)
