"""Recognises payloads by their text, without decoding them.

Most payloads of a type were written by one serialiser, with the same members in the same order: the
texts differ only in their values. A pattern made of one such text matches others whose shape is the
same, in a fraction of the time that decoding takes. A pattern matches nothing else: it has all
names, brackets and white space as they are, a string without any escape for each string, and an
integer, another number, a truth value or a null for each of those. So whatever matches has the same
paths and types; what does not is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from esops.schema.shapes import Shapes, ShapeVariant

_SPACE = re.compile(rb"[ \t\n\r]*")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_DIGITS = re.compile(rb"-?[0-9][-+.eE0-9]*")
_COMMA = re.compile(rb",[ \t\n\r]*")
_WORDS = ((b"null", b"null"), (b"true", rb"(?:true|false)"), (b"false", rb"(?:true|false)"))
_STRING = rb'"[ !#-\[\]-\xff]*+"'
# No more digits than an integer of 64 bits has, and no exponent that no double has.
_INTEGER = rb"(?:0|-?[1-9][0-9]{0,17}+)"
_NUMBER = (
    rb"-?(?:0|[1-9][0-9]{0,17}+)"
    rb"(?:\.[0-9]{1,30}+(?:[eE][-+]?[0-9]{1,2}+)?+|[eE][-+]?[0-9]{1,2}+)"
)
_DEEPEST = 20
_LONGEST = 4_000
"""Bytes of a payload of which a pattern is made."""
_TRIED = 3
"""Patterns that are held against a payload."""
_MADE = 40
"""Patterns that are made of the payloads of one type."""
_SEEN = 3
"""How often a variant is decoded before a pattern is made of it."""
_JUDGED = 500
"""Payloads that no pattern matched, before it is judged whether patterns save time."""

_Match = Callable[[bytes], object]
_NEVER: _Match = re.compile(rb"(?!)").fullmatch


class TextPatterns:
    """The shapes of the payloads of one type, in the order of the log.

    Whoever is in a hurry asks `best` itself, and then `of`: for most payloads no call is needed.
    """

    __slots__ = ("_decoded", "_made", "_misses", "_patterns", "_shapes", "_used", "best", "hits")

    def __init__(self, shapes: Shapes) -> None:
        """No payload was seen."""
        self._shapes = shapes
        self._patterns: list[tuple[_Match, ShapeVariant]] = []
        """The one that matched last comes first."""
        self.best: tuple[_Match, ShapeVariant] = (_NEVER, shapes.empty)
        """The first: a payload of ASCII characters that it matches has that variant."""
        self.hits = 0
        """How many payloads were recognised, those by `best` too."""
        self._decoded: dict[int, int] = {}
        """By the id of a variant, which may be that of another one later; that does no harm."""
        self._made = 0
        self._misses = 0
        self._used = True

    def of(self, data: bytes) -> ShapeVariant:
        """The variant of a payload: the one that `Shapes.of` gives."""
        if not self._used:
            return self._shapes.of(data)
        patterns = self._patterns
        for place, (match, variant) in enumerate(patterns):
            if match(data) and (data.isascii() or _is_utf8(data)):
                if place:
                    patterns.insert(0, patterns.pop(place))
                    self.best = patterns[0]
                self.hits += 1
                return variant
        found = self._shapes.of(data)
        self._missed(data, found)
        return found

    def _missed(self, data: bytes, variant: ShapeVariant) -> None:
        self._misses += 1
        if self._misses > _JUDGED:
            # Where most payloads differ by more than their values, patterns only cost time.
            self._used = self.hits > self._misses
            self.hits = self._misses = 0
            self._decoded.clear()
            if not self._used:
                self.best = (_NEVER, self._shapes.empty)
                return
        seen = self._decoded[id(variant)] = self._decoded.get(id(variant), 0) + 1
        if seen < _SEEN or self._made >= _MADE or len(data) > _LONGEST:
            return
        self._decoded[id(variant)] = 0
        self._made += 1
        pattern = pattern_of(data)
        # It may differ from what it was made of: an escape in a string, or a very long number.
        if pattern is not None and pattern(data):
            self._patterns.insert(0, (pattern, variant))
            del self._patterns[_TRIED:]
            self.best = self._patterns[0]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def pattern_of(data: bytes) -> _Match | None:
    """What matches the texts that differ from a payload only in their values; None where none can
    be made. The payload is JSON.
    """
    try:
        text = _Text(data)
        pattern = text.space() + text.value(0) + text.space()
    except _OtherText:
        return None
    return re.compile(pattern).fullmatch if text.at == len(data) else None


class _OtherText(Exception):
    """No pattern is made of such a text."""


class _Text:
    """A payload's text, read from its beginning; each part is returned as a pattern."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data
        comma = _COMMA.search(data)
        self._comma = b"," if comma is None else comma.group()
        """As this serialiser writes it, for arrays that have one element here."""

    def _take(self, token: re.Pattern[bytes]) -> bytes:
        found = token.match(self._data, self.at)
        if found is None:
            raise _OtherText
        self.at = found.end()
        return found.group()

    def _is(self, mark: bytes) -> bool:
        if not self._data.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def space(self) -> bytes:
        """White space, as it is."""
        return self._take(_SPACE)

    def value(self, depth: int) -> bytes:
        """Any value."""
        if depth > _DEEPEST:
            raise _OtherText
        if self._is(b"{"):
            return self._object(depth + 1)
        if self._is(b"["):
            return self._array(depth + 1)
        first = self._data[self.at : self.at + 1]
        if first == b'"':
            self._take(_TEXT)
            return _STRING
        for word, pattern in _WORDS:
            if self._is(word):
                return pattern
        number = self._take(_DIGITS)
        return _INTEGER if number.lstrip(b"-").isdigit() else _NUMBER

    def _object(self, depth: int) -> bytes:
        made = [rb"\{", self.space()]
        while not self._is(b"}"):
            made += [re.escape(self._take(_TEXT)), self.space()]
            if not self._is(b":"):
                raise _OtherText
            made += [b":", self.space(), self.value(depth), self.space()]
            if self._is(b","):
                made += [b",", self.space()]
        return b"".join([*made, rb"\}"])

    def _array(self, depth: int) -> bytes:
        before = self.space()
        elements, commas = [], []
        while not self._is(b"]"):
            elements.append(self.value(depth))
            space = self.space()
            if self._is(b","):
                commas.append(space + b"," + self.space())
            else:
                commas.append(space)
        if not elements:
            return rb"\[" + before + rb"\]"
        last = commas.pop()
        if len(set(elements)) == 1 and len(set(commas)) <= 1:
            # Any number of elements alike has the same shape.
            comma = commas[0] if commas else self._comma
            more = b"(?:" + comma + elements[0] + b")*+"
            return rb"\[" + before + elements[0] + more + last + rb"\]"
        joined = b"".join(part for both in zip(elements, commas, strict=False) for part in both)
        return rb"\[" + before + joined + elements[-1] + last + rb"\]"
