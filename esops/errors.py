"""What can go wrong, one class for each thing that a caller handles differently.

Each class has its exit code (docs/reference/exit-codes.md). The message says in one sentence what
went wrong, the hint says what to do. The docstring of a class is its message where none is given.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class EsopsError(Exception):
    """esops met a defect of its own."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        """Set the sentence for the operator, and a hint that says what to do next."""
        self.message = message or (self.__class__.__doc__ or "").strip()
        self.hint = hint
        super().__init__(self.message)


class UsageError(EsopsError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class NoStream(UsageError):
    """A store does not have a stream."""

    def __init__(self, store: str, stream: str, hint: str | None = None) -> None:
        """The names of both, and what to do."""
        super().__init__(f"store {store} has no stream {stream!r}", hint=hint)
        self.store, self.stream = store, stream


class NoTenant(UsageError):
    """A store's tables do not have a tenant."""


class NothingFound(UsageError):
    """No event of a store is of the name that was asked for."""

    exit_code = 1


class Unavailable(EsopsError):
    """A store or database could not be reached, or failed."""

    exit_code = 3


class Denied(Unavailable):
    """This user has no right to do it."""


class AbsentArchive(Unavailable):
    """The folder of an archive does not exist."""


class EmptyArchive(AbsentArchive):
    """The place of an archive is there, and no archive is in it."""

    exit_code = 6


def unwritten(where: str, error: OSError) -> Unavailable:
    """The error of a result that the system does not take, such as on a full disk."""
    return Unavailable(
        f"{where} cannot be written: {error.strerror}",
        hint="What the command did before is done. Look with `esops status`.",
    )


class ConnectionLost(Unavailable):
    """The connection to the database was lost."""


class Busy(EsopsError):
    """Another process holds the lock."""

    exit_code = 4


class Stopped(EsopsError):
    """Stopped before the end; it can be resumed."""

    exit_code = 5


class Refused(EsopsError):
    """Going on could lose data or serve wrong data."""

    exit_code = 6


class ContradictedSequence(Refused):
    """The store's sequence contradicts its events, so nobody can say what is settled."""


class AnotherLog(Refused):
    """The store's log is not the one that a checkpoint was taken in."""


class OtherRows(Refused):
    """The rows of a version are not those of its checkpoint."""


class OtherPositions(AnotherLog):
    """A checkpoint is not a position of its store."""


class OtherTransactions(AnotherLog):
    """A store is ordered by transaction ids, and its checkpoint holds those of another cluster."""


class UnreadableMark(AnotherLog):
    """What esops noted of the store's log at a checkpoint (in esops.marks) cannot be read."""

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        """Set the sentence, and the hint where none is given."""
        super().__init__(
            message,
            hint=hint
            or "Somebody else changed that row. If you know that the store was not restored or "
            "replaced, delete the projection's rows of esops.marks and esops.older_marks.",
        )


class UnknowableNumbers(ContradictedSequence):
    """Nobody can know whether a missing number will still come."""


class RowSecurity(Refused):
    """Row security hides rows from this role."""


class PooledSession(Refused):
    """A pooler in transaction mode gives no session."""


class UnfitSession(Refused):
    """A session has a setting that esops may not change."""


class UnreadableEncoding(Refused):
    """The encoding of a database's text is not known."""


class PoisonEvent(Refused):
    """An event could not be projected."""


def nearest(wrong: str, known: Iterable[str]) -> str:
    """A hint for a wrong name: "Did you mean 'x'?", or the list of all names where none is near."""
    names = sorted(known)
    # Whoever types "esops-d003" or "Shop" means the name that differs only in that.
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(wrong.lower(), by_lower, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {by_lower[close[0]]!r}?"
    return "There is: " + ", ".join(names) + "." if names else "There is none."
