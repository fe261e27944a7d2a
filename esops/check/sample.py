"""Which keys a check looks at, and what a sample of them would have found.

A key is in a sample where a hash of it and of the seed lies below a bound. So a row that is missing
and one that is too many have the same chance as any other, the same seed gives the same keys, and
nothing has to be remembered of the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import md5

from psycopg import sql

from esops.errors import UsageError

ALL_UP_TO = 100_000
"""Keys of a read model that is checked whole where nobody says how much of it."""
RATE = 0.001
"""The rate of wrong rows for which a sample says how probably it finds one."""
_SPACE = 1 << 32
_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is to be checked: a share of the keys (1.0: all), or a number of them."""

    share: float | None = None
    number: int | None = None

    def of(self, keys: int) -> float:
        """The share of this many keys."""
        if self.number is not None:
            return min(1.0, self.number / max(keys, 1))
        return 1.0 if self.share is None else self.share

    def __str__(self) -> str:
        if self.number is not None:
            return str(self.number)
        return "all" if self.share in {None, 1.0} else f"{self.share * 100:g}%"


def amount(text: str | None, keys: int) -> Amount:
    """Read `--sample`; without it, all of few keys, and 1 % of many (`keys`: of how many).

    Raises UsageError.
    """
    if text is None:
        return Amount(1.0 if keys <= ALL_UP_TO else 0.01)
    given = text.strip()
    if given == "all":
        return Amount(1.0)
    if (share := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", given)) and 0 < float(share[1]) <= 100:
        return Amount(float(share[1]) / 100)
    if re.fullmatch(r"\d+", given) and int(given) > 0:
        return Amount(number=int(given))
    raise UsageError(
        f"--sample {text!r} is neither a number of keys, nor a percentage, nor 'all'",
        hint="For example --sample 1%, --sample 5000, or --sample all.",
    )


@dataclass(frozen=True, slots=True)
class Draw:
    """The keys of a sample, by the seed and the share that decide on each of them."""

    seed: str
    share: float

    @property
    def whole(self) -> bool:
        """Whether every key is in it."""
        return self.share >= 1

    def has(self, key: Sequence[str]) -> bool:
        """Whether a key, as the texts of its columns, is in it."""
        return self.whole or self.number(key) < self._bound

    def number(self, key: Sequence[str]) -> int:
        """The key's own number, by which it is drawn; the smaller, the sooner."""
        text = _SEPARATOR.join([self.seed, *key])
        return int(md5(text.encode(), usedforsecurity=False).hexdigest()[:8], 16)

    @property
    def _bound(self) -> int:
        return math.ceil(self.share * _SPACE)

    def condition(self, key: Sequence[sql.Composable]) -> sql.Composable:
        """The same in SQL: whether the row with these values is in it."""
        if self.whole:
            return sql.SQL("TRUE")
        parts: list[sql.Composable] = [sql.Literal(self.seed)]
        for each in key:
            parts += [sql.Literal(_SEPARATOR), sql.SQL("({})::text").format(each)]
        texts = sql.SQL(" || ").join(parts)
        # Hexadecimal digits are in the order of the numbers that they stand for.
        return sql.SQL('left(md5({}), 8) COLLATE "C" < {}').format(
            texts, sql.Literal(f"{min(self._bound, _SPACE - 1):08x}")
        )


def chance(rate: float, checked: int, of: int | None) -> float:
    """The probability that a sample has at least one wrong row, where this rate of all rows is
    wrong.

    Without replacement: 1 - C(N - K, n) / C(N, n), the hypergeometric distribution. `of` is the
    number of all keys; None where it is not known, and taken for very large then.
    """
    if checked <= 0:
        return 0.0
    if of is None:
        return -math.expm1(checked * math.log1p(-rate))
    wrong = max(1, round(rate * of))
    if checked > of - wrong:
        return 1.0
    # C(N-K, n) / C(N, n) = prod (N-K-i)/(N-i), by logarithms of factorials.
    none = (
        math.lgamma(of - wrong + 1)
        - math.lgamma(of - wrong - checked + 1)
        - math.lgamma(of + 1)
        + math.lgamma(of - checked + 1)
    )
    return min(1.0, max(0.0, -math.expm1(none)))


def in_words(rate: float, probability: float) -> str:
    """What the probability says, for a person."""
    # Never rounded up to certainty.
    percent = math.floor(probability * 10_000) / 100
    return (
        f"if 1 of {round(1 / rate):,} rows were wrong, this sample would have found one with a "
        f"probability of {percent:g}%"
    )
