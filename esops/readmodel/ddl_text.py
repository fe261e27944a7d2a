"""A user's DDL as text: its statements, as far as esops has to know them before it runs them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
      --[^\n]*
    | /\*
    | [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)
    | '(?:[^']|'')*(?:'|\Z)
    | "(?:[^"]|"")*(?:"|\Z)
    | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$ .*? (?:\$(?P=tag)\$|\Z)
    | [^\W\d][\w$]*
    | ;
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[^\W\d][\w$]*")
_COMMENT = re.compile(r"/\*|\*/")
_ENDS = {"COMMIT", "ROLLBACK", "ABORT", "END", "BEGIN"}
_TWO_WORDS = {("START", "TRANSACTION"), ("PREPARE", "TRANSACTION")}


def of_transactions(text: str) -> str | None:
    """The first statement that begins or ends a transaction; None where there is none.

    What a function or a DO block has in its body is no statement of the text.
    """
    for words in _statements(text):
        first = words[0]
        if first == "ROLLBACK" and "TO" in words[1:3]:
            continue  # to a savepoint
        if first in _ENDS or tuple(words[:2]) in _TWO_WORDS:
            return " ".join(words[:2])
    return None


def _statements(text: str) -> Iterator[list[str]]:
    """The words of each statement, in capitals, without texts, names in quotes and comments."""
    words: list[str] = []
    depth = 0
    for found in _tokens(text):
        if found != ";":
            # The body of a function in SQL: BEGIN ATOMIC …; …; END, with CASE … END in it.
            if words and found == "ATOMIC" and words[-1] == "BEGIN":
                depth = 1
            elif depth and found == "CASE":
                depth += 1
            elif depth and found == "END":
                depth -= 1
            words.append(found)
        elif not depth and words:
            yield words
            words = []
    if words:
        yield words


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while (found := _TOKEN.search(text, at)) is not None:
        at = found.end()
        if found[0] == "/*":
            at = _after_comment(text, at)
        elif found[0] == ";" or _WORD.fullmatch(found[0]):
            yield found[0].upper()


def _after_comment(text: str, at: int) -> int:
    """Where a comment ends; comments have comments in them."""
    depth = 1
    while depth and (found := _COMMENT.search(text, at)) is not None:
        depth += 1 if found[0] == "/*" else -1
        at = found.end()
    return len(text) if depth else at
