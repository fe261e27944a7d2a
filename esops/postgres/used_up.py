"""What the server says when something of its own is used up: disk, memory, or what a setting
allows.
"""

from __future__ import annotations

from esops.errors import Unavailable

_AGAIN = "Then run the command again; a rebuild continues with --resume."
_HINTS = {
    "53400": "Raise that limit for esops' role: ALTER ROLE … SET … = ….",
    "53100": "Make room on the server's disk.",
    "53200": "Lower work_mem for esops' role (ALTER ROLE … SET work_mem = '…'), or give the server "
    "more memory.",
}
_OF_SETTINGS = {
    "temp_file_limit": "A superuser can raise it for esops' role: ALTER ROLE … SET temp_file_limit "
    "= '…'. With a larger work_mem for the role, the server writes less to temporary files.",
    "shared memory": "Raise max_locks_per_transaction in the server's configuration and restart "
    "it.",
}
"""By words of the message."""


def used_up(state: str | None, text: str) -> Unavailable | None:
    """The error for a state in which something of the server is used up; None for others."""
    if state not in _HINTS:
        return None
    hint = next((hint for words, hint in _OF_SETTINGS.items() if words in text), _HINTS[state])
    return Unavailable(
        f"the database has reached a limit of its own: {text}", hint=f"{hint} {_AGAIN}"
    )
