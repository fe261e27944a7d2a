"""The files that an application's code consists of, as far as a run has used them: modules that it
loads while it decodes, and data that it reads. They tell a later run whether the code is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esops.projections.code_origin import Origins

INSTALLED = {"site-packages", "dist-packages"}
"""Folders of packages that are not the project's."""
_NOT_OF_THE_PROJECT = INSTALLED | {"__pycache__", ".git"}
_WRITES = ("w", "a", "x", "+")


class CodeFiles:
    """Sees which files the code of this process uses."""

    def __init__(self, directory: Path, home: str) -> None:
        """`directory` is the project's folder, and `home` a module of it. It sees files from now
        on, to the end of the process.
        """
        self._directory, self._origins = directory.resolve(), Origins(home)
        self._opened: set[Path] = set()
        self._modules: set[str] = {"__main__"}
        self._seen: set[Path] = set()
        sys.addaudithook(self._hook)

    def new(self) -> dict[str, str]:
        """The files that were used since it was last asked, each with a digest of its content."""
        opened, self._opened = self._opened, set()
        files = {real for each in opened if self._is_data(real := each.resolve())}
        for name in sys.modules.keys() - self._modules:
            file = getattr(sys.modules.get(name), "__file__", None)
            if isinstance(file, str) and self._origins.foreign(name) is None:
                files.add(Path(file).resolve())
            self._modules.add(name)
        new = files - self._seen
        self._seen |= new
        return {self._named(each): digest(each) for each in new}

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open":
            return
        with contextlib.suppress(Exception):  # whatever it was, the code must not see it
            file, mode, flags = arguments
            reads = (
                not any(each in mode for each in _WRITES)
                if isinstance(mode, str)
                else flags & os.O_ACCMODE == os.O_RDONLY
            )
            if reads and not isinstance(file, int):
                # The code may change its folder later.
                self._opened.add(Path.cwd() / os.fsdecode(file))

    def _is_data(self, file: Path) -> bool:
        return (
            file.is_relative_to(self._directory)
            and not file.is_relative_to(sys.prefix)
            and not _NOT_OF_THE_PROJECT & set(file.parts)
            and not file.is_dir()
        )

    def _named(self, file: Path) -> str:
        near = file.is_relative_to(self._directory)
        return str(file.relative_to(self._directory) if near else file)


def digest(file: Path) -> str:
    """Of a file's content; `none` where there is no such file."""
    try:
        if not file.is_file():
            return "none"
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()[:16]
    except OSError:
        return "none"


def changed(files: Mapping[str, str], directory: Path) -> str | None:
    """The first of some files whose content is not as it was; None where all are."""
    real = directory.resolve()
    return next((name for name, was in sorted(files.items()) if digest(real / name) != was), None)
