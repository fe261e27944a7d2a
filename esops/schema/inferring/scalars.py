"""What texts and numbers at one place have in common, taken a column at a time: sets, minima and
maxima are made in C.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from functools import cache

import jsonschema_rs

from esops.schema.files import DIALECT

FORMATS = (
    "uuid", "date-time", "date", "time", "duration", "email", "ipv4", "ipv6", "uri",
)  # fmt: skip
"""Formats that are claimed, in this order: the first that the validator itself accepts all with."""
MOST_VALUES = 20
"""A text that has more distinct values than this is no enum."""
LONGEST_VALUE = 60
"""Characters of an enum's value."""
LEAST_REPEATED = 20
"""Each value of an enum occurs so often on average."""
_MOST = 1 << 53
"""Beyond that, programs read one integer in different ways."""
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
_PHONE = re.compile(r"(?:\+|00)[1-9](?:[ ()./-]*[0-9]){6,14}")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")

Accepts = Callable[[str], bool]


@cache
def accepted_as() -> Mapping[str, Accepts]:
    """Whether a text is of a format, as the validator says that `schema check` uses."""
    found: dict[str, Accepts] = {
        name: jsonschema_rs.validator_for(
            {"$schema": DIALECT, "format": name}, validate_formats=True
        ).is_valid
        for name in FORMATS
    }
    # Whatever has a colon is a URI: "note:x" is one.
    valid = found["uri"]
    found["uri"] = lambda text: _ABSOLUTE.match(text) is not None and valid(text)
    return found


def is_iban(text: str) -> bool:
    """Whether a text is an IBAN whose checksum is right (ISO 13616)."""
    plain = text.replace(" ", "")
    if not _IBAN.fullmatch(plain):
        return False
    digits = "".join(str(int(each, 36)) for each in plain[4:] + plain[:4])
    return int(digits) % 97 == 1


def is_phone(text: str) -> bool:
    """Whether a text is a telephone number in international form."""
    return _PHONE.fullmatch(text) is not None


class TextColumn:
    """The texts at one place."""

    __slots__ = ("_formats", "_personal", "count", "longest", "shortest", "values")

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.count = 0
        self.shortest, self.longest = 1 << 60, 0
        self.values: set[str] | None = set()
        """The distinct ones; None where they are too many."""
        self._formats: list[str] | None = None
        self._personal: list[str] | None = None

    def take(self, texts: Sequence[str]) -> None:
        """Some more; at least one."""
        distinct = set(texts)
        lengths = set(map(len, distinct))
        self.count += len(texts)
        self.shortest = min(self.shortest, *lengths)
        self.longest = max(self.longest, *lengths)
        if self._formats is None:
            self._formats, self._personal = list(FORMATS), ["iban", "phone"]
        if self._formats:
            accepts = accepted_as()
            self._formats = [each for each in self._formats if all(map(accepts[each], distinct))]
        if self._personal:
            own: dict[str, Accepts] = {"iban": is_iban, "phone": is_phone}
            self._personal = [each for each in self._personal if all(map(own[each], distinct))]
        if self.values is not None:
            self.values |= distinct
            if len(self.values) > MOST_VALUES:
                self.values = None

    def absorb(self, other: TextColumn) -> None:
        """Take all that another column has seen."""
        if not other.count:
            return
        if not self.count:
            for name in self.__slots__:
                setattr(self, name, getattr(other, name))
            return
        self.count += other.count
        self.shortest = min(self.shortest, other.shortest)
        self.longest = max(self.longest, other.longest)
        self._formats = [each for each in self._formats or () if each in (other._formats or ())]
        self._personal = [each for each in self._personal or () if each in (other._personal or ())]
        both = None
        if self.values is not None and other.values is not None:
            both = self.values | other.values
        self.values = both if both is not None and len(both) <= MOST_VALUES else None

    @property
    def format(self) -> str | None:
        """The format of all of them."""
        return self._formats[0] if self._formats else None

    @property
    def personal(self) -> str | None:
        """What kind of personal data they look like."""
        form = self.format
        if form == "email":
            return "email"
        if form in ("ipv4", "ipv6"):
            return "ip"
        return self._personal[0] if self._personal else None

    @property
    def enum(self) -> list[str] | None:
        """The values, where these are few, short and repeated, and of no format. One value alone is
        no enum: the next one may come any day.
        """
        values = self.values
        if values is None or len(values) < 2 or self.longest > LONGEST_VALUE:
            return None
        if self.format is not None or self.count < LEAST_REPEATED * len(values):
            return None
        return sorted(values)


class NumberColumn:
    """The numbers at one place."""

    __slots__ = ("highest", "lowest", "unbounded")

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.lowest: int | float | None = None
        self.highest: int | float | None = None
        self.unbounded = False
        """Whether there was one that no JSON writer takes, so that there is no range."""

    def take(self, numbers: Collection[int | float | Decimal]) -> None:
        """Some more; at least one."""
        low, high = min(numbers), max(numbers)
        if isinstance(low, Decimal) or isinstance(high, Decimal) or low < -_MOST or high > _MOST:
            self.unbounded = True
            return
        self.lowest = low if self.lowest is None else min(self.lowest, low)
        self.highest = high if self.highest is None else max(self.highest, high)

    def absorb(self, other: NumberColumn) -> None:
        """Take all that another column has seen."""
        self.unbounded = self.unbounded or other.unbounded
        if other.lowest is not None and other.highest is not None:
            self.take((other.lowest, other.highest))
