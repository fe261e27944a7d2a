"""Messages of exceptions without the values of events, so that they show no personal data, and all
events that fail alike have the same one.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import orjson

from esops.events import RecordedEvent

MOST_CHARACTERS = 300
"""Of a message in a group."""
_READ = 5_000
_MOST_VALUES, _MOST_TEXT = 100_000, 2_000_000
"""Values of one event that are looked for, and their characters; beyond, no message is shown."""
_WORD_LEAST = 3
"""Shorter values stand in words by chance. They are masked in quotes, and where a word of two
letters is written as the value is.
"""
_MASK = "…"
_UUID = re.compile(r"\b[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}\b")
_EMAIL = re.compile(r"[^\s'\"<>(),;:]+@[^\s'\"<>(),;:]+")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+\b")
_HEX = re.compile(r"\b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{12,}\b")
_NUMBER = re.compile(r"(?<![A-Za-z_\d])[-+]?\d+(?:[.,:_T/-]\d+)*(?:[eE][-+]\d+)?\w*")
_BRACES = re.compile(r"\{[^{}]*\}")
_QUOTED = re.compile(r"b?'((?:[^'\\]|\\.)*)'|b?\"((?:[^\"\\]|\\.)*)\"|`([^`]*)`")
_NAME = re.compile(r"[A-Za-z_$][\w$]*(?:[.\[\]*:]+[\w$]*)*\Z")


def masked(message: str, event: RecordedEvent) -> str:
    """A message in one line without the event's values, numbers and ids; at most MOST_CHARACTERS.

    Quoted names stay, such as that of a missing field, unless the event has such a value.
    """
    text = _one_line(message[:_READ])
    try:
        values = _values(event)
    except OverflowError:
        return _MASK if text else ""
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
    text = _QUOTED.sub(quoted, _without(text, values))
    for pattern in (_UUID, _EMAIL, _ADDRESS, _HEX):
        text = pattern.sub(_MASK, text)
    return _NUMBER.sub("N", text)[:MOST_CHARACTERS]


def _one_line(text: str) -> str:
    """A text in one form of Unicode, on one line."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _without(text: str, values: set[str]) -> str:
    """A text without some values that stand in it as words."""
    fold = text.casefold()
    # The longest first: a name may stand in an address.
    for each in sorted(
        (each for each in values if len(each) >= _WORD_LEAST and each.casefold() in fold),
        key=len,
        reverse=True,
    ):
        text, count = re.subn(rf"(?<!\w){re.escape(each)}(?!\w)", _MASK, text, flags=re.IGNORECASE)
        if not count:  # it may be there in other letters, such as ss for ß
            changed = re.sub(rf"(?<!\w){re.escape(each.casefold())}(?!\w)", _MASK, text.casefold())
            text = changed if changed != text.casefold() else text
    short = {each for each in values if len(each) == _WORD_LEAST - 1 and each in text}
    for each in short:
        text = re.sub(rf"(?<!\w){re.escape(each)}(?!\w)", _MASK, text)
    return text


def _within(fold: str, values: set[str]) -> bool:
    """Whether a text is a part of a value, as where a parser shows what it stopped at."""
    return len(fold) >= _WORD_LEAST and any(fold in each for each in values)


def _values(event: RecordedEvent) -> set[str]:
    """The texts of an event, as they may stand in a message. Raises OverflowError where there are
    too many to look for.
    """
    texts = [event.stream, event.tenant, *_ids(event.stream)]
    size = 0
    for content in (event.metadata, event.data):
        try:
            document = _loaded(content)
        except (ValueError, RecursionError):
            texts.append(content[:_READ].decode(errors="replace"))
            continue
        for value in _texts(document):
            texts.append(value)
            size += len(value)
            if len(texts) > _MOST_VALUES or size > _MOST_TEXT:
                raise OverflowError
    found = set()
    for text in texts:
        line = _one_line(text)
        found.add(line)
        if " " in line:
            found.update(line.split())
        if not text.isascii():  # as a program writes what it takes for no letters
            found.update((ascii(text)[1:-1], json.dumps(text)[1:-1]))
    found.discard("")
    return found


def _loaded(content: bytes) -> Any:
    if not content:
        return None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)  # it takes halves of characters, too


def _ids(stream: str) -> Iterator[str]:
    """What may be the id in a stream's name."""
    for sign in "-:":
        yield stream.partition(sign)[2]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not _NAME.match(name):  # a name that is data
                yield name
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
