"""A graph of values, hashed without any order of visiting.

Each node is given a hash of what it is, then, again and again, one of that and its neighbours'
hashes, until no more nodes differ. So cycles end, and two processes that hash strings differently
agree.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from esops.projections.code_source import digest
from esops.projections.object_values import attempt
from esops.projections.plain_values import plain


class Plain(bytes):
    """A value without code in it, which may differ between two processes of the same code."""


Part = tuple[bytes | int, ...]
"""How a node names another one: words, and a number of a node or a plain value."""


@dataclass
class CodeNode:
    """What a node is, and the nodes that it names, each with how."""

    label: bytes = b""
    parts: list[Part] = field(default_factory=list)
    ordered: bool = True


@dataclass(frozen=True)
class Hashes:
    """What a graph comes to."""

    text: bytes
    """Of the code's text alone, and of how it hangs together."""
    values: bytes
    """Of the values as well, as they are in this process."""
    by_name: dict[str, str]
    """Of what each name of a module stands for by itself, with the values."""


def differing(names: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """The names that stand for something else in one process than in another one."""
    return sorted(each for each in {*names, *others} if names.get(each) != others.get(each))


class Graph:
    """Values that are described once each, with all that they refer to."""

    def __init__(self) -> None:
        """Values are added with `add`."""
        self._index: dict[Hashable, int] = {}
        self._nodes: list[CodeNode] = []
        self._waiting: list[tuple[int, Callable[[], CodeNode]]] = []
        self._kept: list[Any] = []  # as long as it lives, nothing else has its id
        self._called: dict[str, int] = {}

    def node(self, key: Hashable, value: object, describe: Callable[[], CodeNode]) -> int:
        """The number of a value's node; `describe` is asked for it once, and later."""
        at = self._index.get(key)
        if at is None:
            at = self._index[key] = len(self._nodes)
            self._nodes.append(CodeNode())
            self._kept.append(value)
            self._waiting.append((at, describe))
        return at

    def call(self, name: str, at: int) -> None:
        """Give a node the name under which `Hashes` has it."""
        self._called[name] = at

    def hashes(self) -> Hashes:
        """The hashes of all that was added."""
        while self._waiting:
            at, describe = self._waiting.pop()
            self._nodes[at] = describe()
        text = self._hashed(_text)
        values = self._hashed(_with_values)
        named = {at: digest(name.encode()) for name, at in self._called.items()}
        alone = self._hashed(partial(_by_itself, named))
        names = {name: alone[at].hex()[:16] for name, at in self._called.items()}
        return Hashes(digest(*sorted(set(text))), digest(*sorted(set(values))), names)

    def _hashed(self, of: Callable[[CodeNode, list[bytes]], bytes]) -> list[bytes]:
        hashes = [digest(each.label) for each in self._nodes]
        distinct = 0
        while len(set(hashes)) > distinct:
            distinct = len(set(hashes))
            hashes = [of(each, hashes) for each in self._nodes]
        return hashes


def _with_values(node: CodeNode, hashes: list[bytes]) -> bytes:
    parts = [
        digest(*(hashes[each] if isinstance(each, int) else each for each in part))
        for part in node.parts
    ]
    return digest(node.label, *(parts if node.ordered else sorted(parts)))


def _by_itself(named: Mapping[int, bytes], node: CodeNode, hashes: list[bytes]) -> bytes:
    """Without what the names in it stand for."""
    parts = [tuple(named.get(i, i) if isinstance(i, int) else i for i in p) for p in node.parts]
    return _with_values(replace(node, parts=parts), hashes)


def _text(node: CodeNode, hashes: list[bytes]) -> bytes:
    """Without plain values; in no order, since that of a list may come from a set's."""
    parts = {
        digest(
            *(
                hashes[each] if isinstance(each, int) else each
                for each in part
                if not isinstance(each, Plain)
            )
        )
        for part in node.parts
    }
    return digest(node.label, *sorted(parts))


def leaf(value: object) -> Plain | None:
    """A value without code as bytes; None for any other, and for what may not be looked at."""
    found = attempt(lambda: plain(value))
    return None if found is None else Plain(found)


@contextmanager
def part_of(parts: list[Part], name: bytes) -> Iterator[None]:
    """Describe a part of a value: where that fails, the other parts still count."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - as in `attempt`
        parts.append((name, b"not seen", type(error).__name__.encode()))
