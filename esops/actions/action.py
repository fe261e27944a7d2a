"""What is known of an action when it begins, and the words for its end."""

from __future__ import annotations

import os
import pwd
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from esops import __version__

RUNNING = "running"
WITHOUT_A_WORD = "ended without a word"
"""Its process was killed, or its machine."""
RESULTS: Mapping[int, str] = {
    0: "done",
    1: "done, with findings",
    2: "wrong usage",
    3: "failed",
    4: "busy",
    5: "stopped",
    6: "refused",
}
"""By exit code."""
_DEFECT = "failed by a defect"


def result_of(exit_code: int) -> str:
    """How an action ended, in a word or two."""
    return RESULTS.get(exit_code, _DEFECT)


def os_user() -> str:
    """Who the operating system says this is: a name, or a number where it has no name. Not what
    the environment says, which anybody sets.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@dataclass
class Action:
    """One call of a command that writes. No address, key or value of an event is in it."""

    command: str
    subject: str = ""
    projections: tuple[str, ...] = ()
    options: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    os_user: str = field(default_factory=os_user)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    esops: str = __version__
    began: float = field(default_factory=time.monotonic)
    """Monotonic seconds."""

    def __post_init__(self) -> None:
        """What was typed, and names of the system, may be no text."""
        for name in ("command", "subject", "options", "os_user", "host"):
            setattr(self, name, _text(getattr(self, name)))
        self.projections = tuple(map(_text, self.projections))

    @property
    def age(self) -> float:
        """Seconds since it began: a place may be there only later."""
        return time.monotonic() - self.began

    @property
    def lock(self) -> str:
        """The name of the lock that its process holds."""
        return f"esops:action:{self.id}"


def _text(value: str) -> str:
    return value.encode(errors="backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class PastAction:
    """An action as it was written down, in one place."""

    id: str
    at: datetime
    role: str | None
    """The database's role; none in an archive."""
    os_user: str
    host: str
    command: str
    subject: str
    projections: tuple[str, ...]
    options: str
    result: str
    exit_code: int | None
    ended_at: datetime | None
    esops: str

    @property
    def who(self) -> str:
        """The operating system's user, and the database's role."""
        return self.os_user if self.role is None else f"{self.os_user} as {self.role}"

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "at": self.at,
            "who": self.who,
            "host": self.host,
            "command": self.command,
            "subject": self.subject,
            "result": self.result,
            "exit_code": self.exit_code,
            "ended_at": self.ended_at,
            "options": self.options,
            "projections": list(self.projections),
            "os_user": self.os_user,
            "role": self.role,
            "esops": self.esops,
            "id": self.id,
        }
