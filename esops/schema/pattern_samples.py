"""Texts that a regular expression matches, for patterns as people write them in schemas.

They are candidates: a validator says whether they match. What is not understood gives none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_CLASSES = {"d": "0", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "h": " "}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_NOTHING = "bBAzZG"
_COUNT = re.compile(r"\{(\d+)(,\d*)?\}")
_OTHERS = "aA0-_ .@é"
_MOST_REPEATS = 100


class _NotUnderstood(Exception):
    """The pattern has something that is not known here."""


def examples(pattern: str) -> Iterator[str]:
    """Texts that the pattern may match: the shortest, and one with all that may be repeated."""
    for more in (0, 1):
        try:
            reader = _Reader(pattern, more)
            text = reader.alternatives()
            if reader.at == len(pattern):
                yield text
        except (_NotUnderstood, IndexError):
            return


class _Reader:
    """Reads a pattern from left to right, and makes a text of it."""

    def __init__(self, pattern: str, more: int) -> None:
        self.pattern, self.more, self.at = pattern, more, 0

    def alternatives(self) -> str:
        """The text of the first alternative."""
        first = self._sequence()
        while self._next("|"):
            self._sequence()
        return first

    def _next(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def _sequence(self) -> str:
        text = ""
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            text += self._atom() * self._times()
        return text

    def _times(self) -> int:
        times = 1
        if self._next("*") or self._next("?"):
            times = self.more
        elif self._next("+"):
            times = 1 + self.more
        elif found := _COUNT.match(self.pattern, self.at):
            self.at = found.end()
            times = min(int(found[1]), _MOST_REPEATS)
        else:
            return times
        self._next("?") or self._next("+")  # lazy or possessive, which matches the same
        return times

    def _atom(self) -> str:
        if self._next("("):
            return self._group()
        if self._next("["):
            return self._class()
        if self._next("\\"):
            return self._escape()
        letter = self.pattern[self.at]
        self.at += 1
        if letter in "^$":
            return ""
        return "a" if letter == "." else letter

    def _group(self) -> str:
        looks = False
        if self._next("?"):
            if self._next("=") or self._next("!") or self._next("<=") or self._next("<!"):
                looks = True
            elif self._next("P<") or self._next("<"):
                self.at = self.pattern.index(">", self.at) + 1
            elif not self._next(":"):
                raise _NotUnderstood
        text = self.alternatives()
        if not self._next(")"):
            raise _NotUnderstood
        return "" if looks else text

    def _escape(self) -> str:
        letter = self.pattern[self.at]
        self.at += 1
        if letter in "pP":
            if self._next("{"):
                self.at = self.pattern.index("}", self.at) + 1
            else:
                self.at += 1
            return "A" if letter == "p" else "-"
        if letter in _NOTHING:
            return ""
        if letter in "ux":
            digits = 4 if letter == "u" else 2
            code = self.pattern[self.at : self.at + digits]
            self.at += digits
            return chr(int(code, 16))
        if letter.isdigit():
            raise _NotUnderstood
        return _CLASSES.get(letter) or _CONTROLS.get(letter) or letter

    def _class(self) -> str:
        start = self.at
        negated = self._next("^")
        found: list[str] = []
        while self.at == start + negated or self.pattern[self.at] != "]":
            if self._next("\\"):
                found.append(self._escape())
            else:
                found.append(self.pattern[self.at])
                self.at += 1
        whole = self.pattern[start - 1 : self.at + 1]
        self.at += 1
        if not negated:
            return found[0]
        try:
            return next(each for each in _OTHERS if re.fullmatch(whole, each))
        except (StopIteration, re.error):
            raise _NotUnderstood from None
