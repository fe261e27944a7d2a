"""A column's content, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from esops.erasing.spans import JsonNode, NotJson, keys, leaves, scan
from esops.erasing.traces import names_a_field
from esops.stores.masking import Value


def plain_string(text: str) -> str | None:
    """What a text says that is a JSON string; None where it is none."""
    try:
        node = scan(text)
    except NotJson:
        return None
    return node.text if node.string else None


def strings(content: Value, *, plain: bool) -> Iterable[str]:
    """What is said in a content that is masked as a whole."""
    text = text_of(content) or ""
    try:
        return [text] if plain else texts_in(scan(text))
    except NotJson:
        return [text]


def texts_in(node: JsonNode) -> Iterator[str]:
    """What a value says, but for the names of the library's types."""
    for steps, leaf in leaves(node):
        if leaf.text and not leaf.null and steps[-1:] != ("_type_",):
            yield leaf.text
    for key in keys(node):
        if not names_a_field(key):
            yield key


def text_of(content: Value) -> str | None:
    """A column's content as text; None where it is none."""
    if isinstance(content, bytes):
        try:
            return content.decode()
        except UnicodeDecodeError:
            return None
    return content


def is_json(content: Value) -> bool:
    """Whether it can be read as JSON."""
    text = text_of(content)
    if text is None:
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        pass  # what it does not take need not be wrong, such as half of a surrogate pair
    else:
        return True
    try:
        scan(text)
    except NotJson:
        return not text.strip()
    return True


def like(before: Value, text: str) -> Value:
    """A text in the form of the content that it replaces."""
    return text.encode() if isinstance(before, bytes) else text
