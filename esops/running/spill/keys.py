"""Which partition a key belongs to: the same in every process, and for all keys that are equal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zlib import crc32

from esops.readmodel.types import Key

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BARE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - of times without a zone
_MICROSECOND = timedelta(microseconds=1)
LEAST, MOST = 16, 256
"""How many partitions there may be; a power of two."""


def partitions_for(expected: int, memory: int) -> int:
    """How many partitions to make of states that will take `expected` bytes in all, where each has
    to fit into `memory` bytes with room to spare.
    """
    wanted, made = -(-2 * expected // max(memory, 1)), LEAST
    while made < wanted and made < MOST:
        made *= 2
    return made


def partitions_of(keys: Iterable[Key], partitions: int) -> list[int]:
    """The partition of each key, in the form of the table; `partitions` is a power of two."""
    mask = partitions - 1
    try:
        # Most keys are texts.
        return [crc32(key.encode()) & mask for key in keys]
    except (AttributeError, UnicodeEncodeError):
        return [_hash(key) & mask for key in keys]


def _hash(key: Any) -> int:
    """A hash that does not change from process to process, as Python's own does of texts."""
    if isinstance(key, str):
        return crc32(key.encode("utf-8", "surrogatepass"))
    if isinstance(key, tuple):
        made = 0
        for part in key:
            made = crc32(_hash(part).to_bytes(8, "little"), made)
        return made
    if isinstance(key, bytes):
        return crc32(key)
    if isinstance(key, bool | int | float | Decimal):
        # Python gives equal numbers of all types one hash, which no process changes. What does not
        # equal itself has none.
        return _spread(hash(key)) if key == key else 0  # noqa: PLR0124
    if isinstance(key, UUID):
        return crc32(key.bytes)
    if isinstance(key, datetime):
        since = key - (_BARE_EPOCH if key.tzinfo is None else _EPOCH)
        return _spread(since // _MICROSECOND)
    if isinstance(key, date):
        return _spread(key.toordinal())
    # Of other types nobody knows here which values are equal: one partition is right for all.
    return 0


def _spread(number: int) -> int:
    """Numbers that are near to each other, or have a common divisor, in different partitions."""
    return crc32((number & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"))
