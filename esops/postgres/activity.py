"""What other sessions do, as pg_stat_activity shows it."""

from __future__ import annotations

import re

_LITERAL = re.compile(
    r"""
    [eE]'(?:[^'\\]|\\.|'')*(?:'|$)     # with escapes
    | '(?:[^']|'')*(?:'|$)
    | \$(\w*)\$.*?(?:\$\1\$|$)
    | (?<![\w$."])\d+(?:\.\d+)?\b
    """,
    re.VERBOSE | re.DOTALL,
)


def without_values(statement: str) -> str:
    """A statement without its literals, which may be a person's data. One that was cut may end
    in the middle of a literal.

    Returns the text with an ellipsis for each.
    """
    return _LITERAL.sub("…", statement)
