"""Answers that fit: an assistant reads all of what it gets, and pays for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esops.term import to_json

MOST = 40_000
"""Characters of an answer."""
_LONG_VALUE = 2_000
"""Characters of one value, such as the payload of an event."""
_HIDDEN = frozenset(
    {"data", "metadata", "data_base64", "metadata_base64", "samples", "reason", "reasons"}
    | {"error", "failure", "wrong", "unknown"}
)
"""Fields that are, or may quote, values of events and rows."""
LEFT_OUT = "left out (--no-data)"


def without_data(value: Any) -> Any:
    """The same without what is, or may quote, values of events and rows."""
    if isinstance(value, Mapping):
        return {
            key: LEFT_OUT if key in _HIDDEN and each else without_data(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_data(each) for each in value]
    return value


def fitted(answer: Mapping[str, Any], hint: str) -> str:
    """An answer as JSON of a bounded length. What is cut is said in its field `cut`, with a hint
    how to ask for less.
    """
    whole = {key: _shortened(value) for key, value in answer.items()}
    text = to_json(whole)
    if len(text) <= MOST:
        return text
    cut: list[str] = []
    while len(text) > MOST:
        lists = {key: value for key, value in whole.items() if isinstance(value, list) and value}
        if not lists:
            break
        # The longest one first, by what its entries take, and as much of it as is too much.
        key = max(lists, key=lambda each: len(to_json(lists[each])))
        size = len(to_json(lists[key]))
        kept = int(len(lists[key]) * max(0.0, 1 - (len(text) - MOST) / size) * 0.95)
        whole[key] = lists[key][: min(kept, len(lists[key]) - 1)]
        cut = [each for each in cut if not each.startswith(f"{key}:")]
        cut.append(f"{key}: {len(whole[key])} of {len(answer[key])} are shown")
        text = to_json({**whole, "cut": f"{'; '.join(cut)}. {hint}"})
    if len(text) > MOST:
        text = to_json({"cut": f"the answer has {len(text)} characters and is left out. {hint}"})
    return text


def fitted_text(text: str, hint: str) -> str:
    """A text of a bounded length, with a sentence that says what was cut."""
    if len(text) <= MOST:
        return text
    return f"{text[:MOST]}\n\n[Cut here: {MOST} of {len(text)} characters are shown. {hint}]"


def _shortened(value: Any) -> Any:
    """The same, where no single value is long."""
    if isinstance(value, str):
        if len(value) <= _LONG_VALUE:
            return value
        return f"{value[:_LONG_VALUE]}… ({len(value)} characters in all)"
    if isinstance(value, Mapping):
        shortened = {key: _shortened(each) for key, each in value.items()}
        data = shortened.get("data")
        if isinstance(data, dict | list) and len(text := to_json(data)) > _LONG_VALUE:
            return {**shortened, "data": f"{text[:_LONG_VALUE]}… ({len(text)} characters in all)"}
        return shortened
    if isinstance(value, list | tuple):
        return [_shortened(each) for each in value]
    return value
