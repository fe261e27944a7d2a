"""The shapes of payloads as the other commands know them, whatever form they are decoded from."""

from __future__ import annotations

from collections.abc import Callable

from esops.schema.shapes import Shapes

Plain = Callable[[bytes], bytes] | None
"""Makes plain JSON of a stored payload; None where it is that already."""


class PlainShapes:
    """Finds the hash of a payload's shape."""

    def __init__(self, plain: Plain = None) -> None:
        """`plain` is what the store gives for payloads that its library has wrapped."""
        self._shapes, self._plain = Shapes(), plain

    def hash(self, data: bytes) -> str:
        """The shape's hash."""
        return self._shapes.of(data if self._plain is None else self._plain(data)).shape.hash
