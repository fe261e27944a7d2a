"""Messages of exceptions without the values of events, so that they show no personal data, and all
events that fail alike have the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from esops.events import RecordedEvent

MOST_CHARACTERS = 300
"""Of a message in a group."""
_READ = 5_000
_VALUES = 2_000
"""Values of one event that are looked for."""
_WORD_LEAST = 3
"""Shorter values stand in words by chance; as a word of its own or in quotes, they are masked."""
_MASK = "…"
_UUID = re.compile(r"\b[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}\b")
_EMAIL = re.compile(r"[^\s'\"<>(),;:]+@[^\s'\"<>(),;:]+")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+\b")
_HEX = re.compile(r"\b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{12,}\b")
_NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d+(?:[.,:_T/-]\d+)*(?:[eE][-+]?\d+)?Z?(?![A-Za-z_])")
_BRACES = re.compile(r"\{[^{}]*\}")
_QUOTED = re.compile(r"b?'((?:[^'\\]|\\.)*)'|b?\"((?:[^\"\\]|\\.)*)\"|`([^`]*)`")
_NAME = re.compile(r"[A-Za-z_$][\w$]*(?:[.\[\]*:]+[\w$]*)*\Z")


def masked(message: str, event: RecordedEvent) -> str:
    """A message in one line without the event's values, numbers and ids; at most MOST_CHARACTERS.

    Quoted names stay, such as that of a missing field, unless the event has such a value.
    """
    text = " ".join(message[:_READ].split())
    values = {each for each in _values(event) if each}
    folded = {each.casefold() for each in values}

    def quoted(found: re.Match[str]) -> str:
        inner = next((group for group in found.groups() if group is not None), "")
        fold = inner.casefold()
        if _NAME.match(inner) and fold not in folded and not _within(fold, folded):
            return found[0]
        return f"'{_MASK}'"

    # Whole objects that a message prints, from the inside out.
    for _ in range(10):
        text, count = _BRACES.subn(_MASK, text)
        if not count:
            break
    # The longest first: a name may stand in an address.
    long = sorted((each for each in values if len(each) >= _WORD_LEAST), key=len, reverse=True)
    for each in long:
        if each.casefold() in text.casefold():
            text = re.sub(rf"(?<!\w){re.escape(each)}(?!\w)", _MASK, text, flags=re.IGNORECASE)
    text = _QUOTED.sub(quoted, text)
    for pattern in (_UUID, _EMAIL, _ADDRESS, _HEX):
        text = pattern.sub(_MASK, text)
    return _NUMBER.sub("N", text)[:MOST_CHARACTERS]


def _within(fold: str, values: set[str]) -> bool:
    """Whether a text is a part of a value, as where a parser shows what it stopped at."""
    return len(fold) >= _WORD_LEAST and any(fold in each for each in values)


def _values(event: RecordedEvent) -> Iterator[str]:
    yield event.stream
    yield event.tenant
    left = _VALUES
    for content in (event.data, event.metadata):
        try:
            document = orjson.loads(content) if content else None
        except orjson.JSONDecodeError:
            yield content[:_READ].decode(errors="replace")
            continue
        for value in _texts(document):
            left -= 1
            if left < 0:
                return
            yield value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if " " in value:
            yield from value.split()
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
