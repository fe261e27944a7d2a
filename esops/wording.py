"""How messages say numbers, so that nobody reads "1 streams"."""

from __future__ import annotations

_ES = ("s", "x", "z", "ch", "sh")
_VOWELS = "aeiou"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 stream", "1,204 streams", "2 processes", "3 categories".

    `plural` is needed only where the noun does not follow the rules.
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {plural or _plural(noun)}"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in _VOWELS:
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(_ES) else "s")
