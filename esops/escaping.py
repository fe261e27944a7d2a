r"""Characters that a terminal obeys instead of showing, made visible: `\x1b` for an escape.

Names of streams, types and payloads come from applications, and those from whoever uses them. What
they hold must not clear the screen, set the window's title, or turn the text around.
"""

from __future__ import annotations

import re

_ORDERS = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for \n and \t
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of text
    r"\u2028\u2029"  # line breaks that not every program knows
    r"\ud800-\udfff"  # halves of characters, which cannot be written
)
_IN_LINES = re.compile(f"[{_ORDERS}]")
_IN_NAMES = re.compile(rf"[{_ORDERS}\n\t]")
_IN_JSON = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
_SHORT = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}


def visible(text: str) -> str:
    """Text on one line, as it is shown: a name, a type, a cell."""
    return text if text.isprintable() and text.isascii() else _IN_NAMES.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """Text of several lines, whose line breaks and tabs are esops' own."""
    return _IN_LINES.sub(_escaped, text)


def visible_json(document: str) -> str:
    """JSON, which has escaped only some of these characters itself; it stays the same document."""
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
