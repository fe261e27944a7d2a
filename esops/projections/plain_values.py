"""Values without code in them, as bytes that are the same in every process."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

_DEEP = 40


def plain(value: Any, depth: int = 0) -> bytes | None:
    """A value as bytes, whatever the order of a set or a dictionary; None where it has other
    things in it than values of Python's own types, or is too deep.
    """
    kind: type = type(value)
    name = kind.__name__.encode() + b":"
    if value is None or kind in {bool, complex} or value is ... or value is NotImplemented:
        return name + repr(value).encode()
    if kind is int:
        return name + f"{value:x}".encode()
    if kind is float:
        return name + repr(value).encode()
    if kind is str:
        return name + str(value).encode("utf-8", "surrogatepass")
    if isinstance(value, bytes | bytearray) and kind in {bytes, bytearray}:
        return name + bytes(value)
    if kind not in {list, tuple, dict, set, frozenset, MappingProxyType} or depth > _DEEP:
        return None
    items: list[bytes] = []
    for each in value.items() if kind in {dict, MappingProxyType} else value:
        item = plain(each, depth + 1)
        if item is None:
            return None
        items.append(len(item).to_bytes(8, "big") + item)
    return name + b"".join(items if kind in {list, tuple} else sorted(items))
