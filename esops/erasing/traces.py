"""Looking for values that were masked wherever else they may be.

A long value is looked for everywhere: as a whole, and as a word within a longer text. A short one,
which may stand for anything, only in the person's own events, and as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import orjson

from esops.erasing.forms import composed
from esops.erasing.spans import NotJson, keys, leaves, scan
from esops.json_paths import Steps, written

_LONG = 4
"""Characters from which on a value is looked for everywhere."""
_SHORTEST = 2
_FEW = 64
"""Up to this many values are looked for one by one."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
"""Letters of scripts that put no blanks between words (or, as in Korean, none before particles)."""
_JOINED = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)")
MOST_KEPT = 100
"""Places that a report lists."""


class Place(NamedTuple):
    """Where a value is still to be found; never the value."""

    where: str
    """The store, archive, table or projection."""
    what: str
    """The event or row."""
    path: str
    of: str
    """The path whose value it is, or why it counts."""

    def in_words(self) -> str:
        """Where it is, for a message."""
        return f"{self.where}: {self.what}, {self.path}: {self.of}"


class Values:
    """The values that were masked. They stay in memory and are written nowhere."""

    def __init__(self, masks: Iterable[str] = (), shared: Iterable[str] = ()) -> None:
        """`masks` are texts that take values' places; `shared` are paths of values that others
        have, too.
        """
        self._masks, self._shared = set(map(composed, masks)), set(shared)
        self._paths: dict[str, str] = {}
        self._by_word: dict[str, list[str]] = {}
        """The long values by the first word in them: a text is split once, however many there are.
        """
        self._wordless: list[str] = []
        self._long: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._paths)

    def add(self, values: Mapping[str, Iterable[str]]) -> None:
        """Look for these, too; each with the paths that it was at."""
        for given, paths in values.items():
            value = composed(given)
            if len(value) < _SHORTEST or value in self._paths or value in self._masks:
                continue
            if value in ("true", "false", "null") or set(paths) <= self._shared:
                continue
            self._paths[value] = min(paths)
            if _is_long(value):
                self._long.append(value)
                first = _WORD.search(value)
                if first is None:
                    self._wordless.append(value)
                else:
                    self._by_word.setdefault(first[0], []).append(value)

    def __contains__(self, value: str) -> bool:
        return composed(value) in self._paths

    def in_document(self, text: str, *, own: bool) -> Iterator[tuple[str, str]]:
        """The places in JSON where a value is, and the path that it was masked at."""
        if not self._paths or not (own or self._may_be_in_json(text)):
            return
        try:
            tree = scan(text)
        except NotJson:
            yield from self.in_text(text, "the whole")
            return
        for steps, leaf in leaves(tree):
            if leaf.null:
                continue
            of = self._of(leaf.text or "", own=own and (leaf.string or len(leaf.text or "") > 3))
            if of is not None:
                yield self.path(steps), of
        for key in keys(tree):
            yield from self._in_key(key, own=own)

    def path(self, steps: Steps) -> str:
        """A path, without the keys in it that are a value or have one."""
        hidden = [step for step in steps if isinstance(step, str) and self._hides(step)]
        return written(tuple("…" if step in hidden else step for step in steps))

    def _hides(self, key: str) -> bool:
        return composed(key) in self._paths or self._of(key, own=True) is not None

    def _in_key(self, key: str, *, own: bool) -> Iterator[tuple[str, str]]:
        # Short or long, a name of a field is none of a person.
        of = self._of(key, own=own and not names_a_field(key))
        if of is not None:
            yield "a key", of

    def in_text(self, text: str, name: str) -> Iterator[tuple[str, str]]:
        """Whether a value is in a text that is no JSON."""
        of = self._of(text, own=False)
        if of is not None:
            yield name, of

    def may_be_in(self, text: str) -> bool:
        """Whether a closer look is worth while: a long value is in a text, or an escape is, which
        may hide one.
        """
        return "\\" in text or self._has_plain(composed(text))

    def _has_plain(self, text: str) -> bool:
        """Whether a value is in a text without escapes."""
        if len(self._long) <= _FEW:
            return any(value in text for value in self._long)
        return self._has_any(text)

    def _has_any(self, text: str) -> bool:
        """Whether the first word of a value is in a text, which has blanks for escapes."""
        return not self._by_word.keys().isdisjoint(_WORD.findall(text)) or any(
            value in text for value in self._wordless
        )

    def _may_be_in_json(self, text: str) -> bool:
        if "\\" not in text:
            return self._has_plain(composed(text))
        try:
            text = composed(orjson.dumps(orjson.loads(text)).decode())
        except orjson.JSONDecodeError:
            return True
        # What is escaped now is in no word.
        return self._has_any(_ESCAPE.sub(" ", text)) or bool(self._wordless)

    def _of(self, text: str, *, own: bool) -> str | None:
        """The path of the value that a text is, or has in it."""
        text = composed(text)
        if text in self._masks:
            return None
        whole = self._paths.get(text)
        if whole is not None and (own or _is_long(text)):
            return whole
        words = self._by_word.keys() & set(_WORD.findall(text))
        for value in [*self._wordless, *(each for word in words for each in self._by_word[word])]:
            at = text.find(value)
            while at >= 0:
                if _alone(text, at, at + len(value)):
                    return self._paths[value]
                at = text.find(value, at + 1)
        return None


def names_a_field(key: str) -> bool:
    """Whether a key looks like the name of a field, and not like one of a person."""
    return key.isidentifier() and _JOINED.search(key) is None


def _is_long(text: str) -> bool:
    # One such letter says as much as two of an alphabet.
    return len(text) + len(_JOINED.findall(text)) >= _LONG


def _alone(text: str, start: int, end: int) -> bool:
    """Whether a part of a text is a word of its own, and not a part of one."""
    return _ends(text[start - 1 : start], text[start]) and _ends(text[end : end + 1], text[end - 1])


def _ends(beside: str, edge: str) -> bool:
    return (
        not beside.isalnum()
        or _JOINED.match(beside + edge) is not None
        or (_JOINED.match(edge) is not None)
    )
