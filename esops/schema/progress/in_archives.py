"""Progress in an archive's repository. Apart from the other places, since whoever asks a database
need not wait until Arrow is there.
"""

from __future__ import annotations

import uuid

import orjson

from esops.archive_format.repository import ENCRYPTED, Missing, Repository, Taken
from esops.schema.progress.places import Described, Entry

FOLDER = "schema"
"""Of the repository."""


class ProgressDocuments:
    """Documents below `schema/`, numbered; the highest number counts."""

    def __init__(self, repository: Repository, described: Described) -> None:
        """Nothing is read yet."""
        self._repository = repository
        self._folder = f"{FOLDER}/{described.job}-{described.key}"
        self.name = f"archive {repository.address}"

    def prepare(self) -> None:
        """Write something, and remove it: there is no right to ask for beforehand."""
        probe = f"{self._folder}/probe-{uuid.uuid4()}"
        self._repository.put(probe, b"")
        self._repository.delete(probe)

    def read(self) -> Entry | None:
        """The document of the highest number."""
        names = self._names()
        if not names:
            return None
        try:
            content = self._repository.open(names[-1], self._repository.get(names[-1]))
        except Missing:  # somebody has just written a newer one, and removed this
            return self.read()
        return Entry(**orjson.loads(content))

    def replace(self, entry: Entry) -> bool:
        """A conditional create, which one process of several wins."""
        older = self._names()
        suffix = ".json" + (ENCRYPTED if self._repository.encrypts else "")
        name = f"{self._folder}/{entry.revision:012d}{suffix}"
        if older and older[-1].partition(".")[0] >= name.partition(".")[0]:
            return False
        content = self._repository.seal(memoryview(orjson.dumps(entry._asdict())))
        try:
            self._repository.put(name, content, if_absent=True)
        except Taken:
            return False
        for each in older:
            self._repository.delete(each)
        return True

    def forget(self) -> None:
        """Delete the documents."""
        for each in self._names():
            self._repository.delete(each)

    def erasures(self) -> list[str]:
        """None: a run whose files are rewritten gets another seal."""
        return []

    def _names(self) -> list[str]:
        found = (each.name for each in self._repository.entries(self._folder))
        return [each for each in found if "/probe-" not in each]
