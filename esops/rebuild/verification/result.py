"""What a comparison found, and whether that is within what the operator allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from esops.errors import UsageError

Method = Literal["exact", "columns", "sample", "counts", "none"]
METHODS: tuple[Method, ...] = ("exact", "columns", "sample", "counts", "none")


@dataclass(frozen=True)
class Verification:
    """What a comparison found.

    `differing` counts rows that are missing on one side or unlike; `note` says what the figures do
    not cover.
    """

    method: str
    rows_blue: int | None
    rows_green: int
    differing: int
    position: str | None = None
    only_blue: int = 0
    only_green: int = 0
    columns: Mapping[str, int] = field(default_factory=dict)
    expected: Mapping[str, int] = field(default_factory=dict)
    """Differences in columns that are meant to change; they do not count."""
    compared: int | None = None
    """How many rows were compared, where it was a sample."""
    paths: Mapping[str, int] = field(default_factory=dict)
    """Where JSON differs, by path, in the first rows that differ."""
    paths_of: int | None = None
    """In how many rows that differ the paths were counted."""
    samples: Sequence[Mapping[str, Any]] = ()
    failed_assertions: Sequence[str] = ()
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the journal."""
        return asdict(self)


def not_compared(
    rows_green: int, position: str | None = None, note: str | None = None
) -> Verification:
    """The result where there is nothing to compare with, or nothing was to be compared."""
    return Verification("none", None, rows_green, 0, position, note=note)


def combined(found: Mapping[str, Verification]) -> Verification:
    """The results of several tables as one; columns and samples carry the tables' names."""
    if not found:
        return not_compared(0)
    return Verification(
        method=next(iter(found.values())).method,
        rows_blue=sum(each.rows_blue or 0 for each in found.values()),
        rows_green=sum(each.rows_green for each in found.values()),
        differing=sum(each.differing for each in found.values()),
        only_blue=sum(each.only_blue for each in found.values()),
        only_green=sum(each.only_green for each in found.values()),
        columns={
            f"{name}.{column}": count
            for name, each in found.items()
            for column, count in each.columns.items()
        },
        expected={
            f"{name}.{column}": count
            for name, each in found.items()
            for column, count in each.expected.items()
        },
        paths={
            f"{name}.{path}": count
            for name, each in found.items()
            for path, count in each.paths.items()
        },
        paths_of=sum(each.paths_of or 0 for each in found.values()) or None,
        compared=sum(each.compared or 0 for each in found.values()) or None,
        samples=[
            {"table": name, **sample} for name, each in found.items() for sample in each.samples
        ],
        note="; ".join(f"{name}: {each.note}" for name, each in found.items() if each.note) or None,
    )


def tolerated(verification: Verification, max_diff: str) -> bool:
    """Whether the differences stay within `N` rows or `P%` of blue's rows; `100%` is any.

    A failed assertion is never tolerated. Raises UsageError for any other text.
    """
    if verification.failed_assertions:
        return False
    text = max_diff.strip()
    try:
        if text.endswith("%"):
            # Of a sample only the compared rows can differ, so the share is of those.
            of = verification.compared or verification.rows_blue or 0
            share = float(text[:-1]) / 100
            # All of it: green may have more rows than blue, and all of them differ.
            return share >= 1 or verification.differing <= share * max(of, 1)
        return verification.differing <= int(text)
    except ValueError:
        raise UsageError(
            f"--max-diff {max_diff!r} is neither a number of rows nor a percentage",
            hint="For example --max-diff 100, or --max-diff 2.5%.",
        ) from None


def enough(differing: int, of: int | None) -> str:
    """The `--max-diff` that lets this many differing rows through, of those that were compared.

    From one percent on a percentage, rounded up, since writers do not wait for the next try.
    """
    if not of or differing >= of:
        return "100%"
    if differing * 100 < of:
        return str(differing)
    return f"{-(-differing * 100 // of)}%"


def check_max_diff(max_diff: str) -> None:
    """Raises UsageError for a `--max-diff` that cannot be read."""
    tolerated(not_compared(0), max_diff)
