"""What can go wrong, told as an operator wants to hear it.

One class for each thing that a caller handles differently; each knows its exit code
(docs/reference/exit-codes.md).
The message says what went wrong in one sentence, the hint says what to do. A class's docstring is
its message where
no better one is given.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class EsopsError(Exception):
    """esops met a defect of its own."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        """Take a sentence for the operator and, where there is one, a hint that says what to do
        next.
        """
        self.message = message or (self.__class__.__doc__ or "").strip()
        self.hint = hint
        super().__init__(self.message)


class UsageError(EsopsError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class Unavailable(EsopsError):
    """A store or database could not be reached, or gave up."""

    exit_code = 3


class ConnectionLost(Unavailable):
    """The connection to the database was lost."""


class Busy(EsopsError):
    """Somebody else is at it."""

    exit_code = 4


class Stopped(EsopsError):
    """Stopped before the end; it can be resumed."""

    exit_code = 5


class Refused(EsopsError):
    """Going on could lose data or serve wrong data."""

    exit_code = 6


class ContradictedSequence(Refused):
    """The store's sequence contradicts its events, so nobody can say what is settled."""


class PoisonEvent(Refused):
    """An event could not be projected."""


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known word nearest to a wrong one, or the list of what
    there is.
    """
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(wrong.lower(), by_lower, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {by_lower[close[0]]!r}?"
    return "There is: " + ", ".join(names) + "." if names else "There is none."
