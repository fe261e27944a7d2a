"""How messages say numbers, so that nobody reads "1 streams"."""

from __future__ import annotations

from collections.abc import Sequence

_ES = ("s", "x", "z", "ch", "sh")
_VOWELS = "aeiou"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 stream", "1,204 streams", "2 processes", "3 categories".

    `plural` is needed only where the noun does not follow the rules.
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {plural or _plural(noun)}"


def listed(names: Sequence[str]) -> str:
    """Names as a person lists them: "A", "A and B", "A, B and C"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def about(events: int, between: tuple[int, int], *, counted: bool) -> str:
    """How many events these are: a number, where it was counted; or about that, or a range where
    that is wide.
    """
    if counted:
        return count(events, "event")
    low, high = between
    return f"about {count(events, 'event')}" + (f" ({low:,} to {high:,})" if low < high else "")


def size(bytes_: int) -> str:
    """Bytes as a person says them: "812 bytes", "14 MB"."""
    value = float(bytes_)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:,.0f} {unit}"
        value /= 1024
    return f"{value:,.1f} TB"


def became_dead_letters(number: int) -> str:
    """What is said of this many events, after their number."""
    return (
        "became a dead letter and is missing"
        if number == 1
        else "became dead letters and are missing"
    )


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in _VOWELS:
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(_ES) else "s")
