"""Actions in an archive's repository: one small document each, below `actions/`. A lease
shows whether its process is still there, as for the policies: on its own machine by the process,
from others by whether it renews it.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from esops.actions.action import RUNNING, WITHOUT_A_WORD, Action, PastAction, result_of
from esops.archive_format.lease import Lease
from esops.archive_format.repository import Missing, Repository
from esops.archive_format.runs import LOCKS
from esops.errors import EsopsError

FOLDER = "actions"
KEPT = 1000
"""Documents that are kept, the newest ones."""


class ArchivePlace:
    """One action in one archive."""

    def __init__(self, action: Action, repository: Repository) -> None:
        """Nothing is written yet."""
        self._action, self._repository = action, repository
        self._document = f"{FOLDER}/{action.at:%Y%m%dT%H%M%S%f}Z-{action.id}.json"
        self._lease = Lease(repository, _lease_of(action.id))
        self.name = f"archive {repository.address}"

    def begin(self) -> None:
        """Take the lease, and write the document. Raises what the repository says."""
        names = _names(self._repository)
        self._lease.__enter__()
        self._repository.put(self._document, self._content())
        with suppress(EsopsError):  # the document is there, and the next one prunes
            for name in names[: max(0, len(names) - KEPT + 1)]:
                self._repository.delete(name)
                _forget_lease(self._repository, _id_of(name))

    def keep(self) -> None:
        """Nothing: the lease renews itself."""

    def end(self, exit_code: int) -> None:
        """Write how it ended, and give the lease back. Raises what the repository says."""
        self._repository.put(self._document, self._content(exit_code))
        self.close()

    def close(self) -> None:
        """Give the lease back."""
        if self._lease.number:
            self._lease.__exit__(None, None, None)
            self._lease.number = 0
            with suppress(EsopsError):
                _forget_lease(self._repository, self._action.id)

    def _content(self, exit_code: int | None = None) -> bytes:
        action = self._action
        return orjson.dumps(
            {
                "id": action.id,
                "at": action.at,
                "os_user": action.os_user,
                "host": action.host,
                "command": action.command,
                "subject": action.subject,
                "projections": action.projections,
                "options": action.options,
                "result": RUNNING if exit_code is None else result_of(exit_code),
                "exit_code": exit_code,
                "ended_at": None if exit_code is None else datetime.now(UTC),
                "esops": action.esops,
            }
        )


def past(
    repository: Repository, projection: str | None, since: timedelta | None, last: int
) -> list[PastAction]:
    """The newest actions of an archive; of a projection, where one is named. Raises Unavailable."""
    found: list[PastAction] = []
    for name in reversed(_names(repository)):
        action = _read(repository, name)
        if action is None or (projection is not None and projection not in action.projections):
            continue
        if len(found) == last or (since is not None and datetime.now(UTC) - action.at > since):
            break
        found.append(action)
    return found


def _read(repository: Repository, name: str) -> PastAction | None:
    try:
        document: dict[str, Any] = orjson.loads(repository.get(name))
        ended_at = document["ended_at"]
        given = {
            **document,
            "role": None,
            "at": datetime.fromisoformat(document["at"]),
            "ended_at": None if ended_at is None else datetime.fromisoformat(ended_at),
            "projections": tuple(document["projections"]),
        }
        if given["result"] == RUNNING and (
            Lease(repository, _lease_of(document["id"])).holder() is None
        ):
            # It may have ended in order since the document was read.
            again = orjson.loads(repository.get(name))["result"]
            if again != RUNNING:
                return _read(repository, name)
            given["result"] = WITHOUT_A_WORD
        return PastAction(**given)
    except (Missing, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None  # removed since it was listed, or no document of this esops


def _names(repository: Repository) -> list[str]:
    """The documents, the oldest first."""
    return [each.name for each in repository.entries(FOLDER)]


def _lease_of(identity: str) -> str:
    return f"{FOLDER}/{identity}"


def _id_of(name: str) -> str:
    return name.rpartition("Z-")[2].removesuffix(".json")


def _forget_lease(repository: Repository, identity: str) -> None:
    for each in list(repository.entries(f"{LOCKS}/{_lease_of(identity)}")):
        repository.delete(each.name)
