"""The files of a run, watched while the events that they hold leave the store.

A file's content is hashed as it is read. From then on it is looked at before each transaction:
that it is there, with the size and the tag (ETag or version, or else the time) that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa

from esops.archive_format.manifest import FileEntry, Manifest
from esops.archive_format.repository import Missing, StoredObject
from esops.archive_format.runs import RUNS, Run
from esops.archive_format.schema import Damaged
from esops.wording import count


class _Seen(NamedTuple):
    """What tells the content of an object from any other."""

    size: int
    tag: str
    written: str

    @classmethod
    def of(cls, found: StoredObject) -> _Seen:
        return cls(found.size, found.tag, "" if found.tag else str(found.modified))


class KeptFiles:
    """The files of a sealed run."""

    def __init__(self, run: Run, manifest: Manifest, removed: Callable[[], int]) -> None:
        """`removed` says how many events have left the store so far.

        Raises Missing or Damaged where a file is not there, or has another size.
        """
        self._run, self._manifest, self._removed = run, manifest, removed
        self._seen: dict[str, _Seen] = {}
        self._in_use: list[FileEntry] = []
        """Those of which events were given out since the last check, and the one being read."""
        self._before: list[FileEntry] = []
        """The same, of the check before: some of these events may go only now."""
        self.check_all()

    def events(self) -> Iterator[pa.RecordBatch]:
        """All events, read back once more. Raises Missing, Damaged."""
        for entry in self._manifest.event_files:
            self._look(entry)
            self._in_use.append(entry)
            try:
                yield from self._run.batches(entry)
            except (Damaged, Missing) as error:
                raise self._lost(error) from None

    def check(self) -> None:
        """Look at the files whose events go next. Raises Missing, Damaged."""
        for entry in {each.name: each for each in (*self._before, *self._in_use)}.values():
            self._look(entry)
        self._before, self._in_use = self._in_use, self._in_use[-1:]

    def check_all(self) -> None:
        """Look at all files by one listing. Raises Missing, Damaged."""
        there = {
            found.name.rpartition("/")[2]: found
            for found in self._run.repository.entries(f"{RUNS}/{self._run.name}")
        }
        for entry in self._manifest.files:
            self._compare(entry, there.get(entry.name))
        if "manifest.json" not in there:
            raise self._lost(Missing(f"{self._run.name}/manifest.json is not there any more"))

    def _look(self, entry: FileEntry) -> None:
        try:
            found = self._run.repository.look(self._run.path(entry.name))
        except Missing:
            found = None
        self._compare(entry, found)

    def _compare(self, entry: FileEntry, found: StoredObject | None) -> None:
        name = f"{self._run.name}/{entry.name}"
        if found is None:
            raise self._lost(Missing(f"{name} is not in the repository any more"))
        seen = _Seen.of(found)
        if seen.size != entry.size or self._seen.setdefault(entry.name, seen) != seen:
            raise self._lost(Damaged(f"{name} is another file than the one that was sealed"))

    def _lost(self, error: Missing | Damaged) -> Missing | Damaged:
        removed = self._removed()
        if not removed:
            return type(error)(
                f"{error.message}; nothing was removed from the store", hint=error.hint
            )
        return type(error)(
            f"{error.message}; the removal stopped, after {count(removed, 'event')} had left the "
            "store",
            hint="Put the file back as it was, from a backup or from an older version of the "
            "object. Events that were in it may exist nowhere else.",
        )
