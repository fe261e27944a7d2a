"""What the form of a column is; `forms` has that of each type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from esops.postgres.catalog import Column

Convert = Callable[[Any], Any]
Ask = Callable[[Column, Any], Any]
"""What the server makes of a value in a column; raises Unfit."""


class Unfit(ValueError):
    """A column cannot hold a value exactly; the text says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of one column look. None is not its concern.

    `convert` puts any value into the form, as a copy where it can be changed; it raises Unfit.
    `loaded` does so with what the driver has read, where that is not the form already. `quick` is a
    condition in Python on `v` that holds only for values in the form, with the names that it uses.
    """

    convert: Convert
    loaded: Convert | None = None
    quick: str | None = None
    names: Mapping[str, Any] = field(default_factory=dict)


def cannot_hold(what: str, column: Column, value: Any, error: Unfit) -> str:
    """Why a value is an error at its event; `what` says in words where the value is."""
    shown = repr(value)
    return (
        f"{what} {column.name} = {shown if len(shown) <= 80 else shown[:77] + '...'} "
        f"({type(value).__name__}), which the column ({column.type}) cannot hold: {error}"
    )
