"""How the code of a projection calculates with decimals.

A module that sets it when it is imported (`decimal.getcontext().prec = 50`) sets it for the thread
that imports it, and for all that this thread does afterwards. So each projection of a process
keeps what its own import left, wherever its code is run; and what one sets is in force for no
other one.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass

from esops.errors import Refused


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    definition: object
    """Kept, so that no other object gets its id."""
    where: str
    context: decimal.Context
    set_before: str | None
    """Which other code had set it in this process before this one was imported."""


_known: dict[int, _Arithmetic] = {}
_set_by: list[str] = []
"""Whose import has changed it, in this process."""


@contextmanager
def importing(where: str) -> Iterator[list[object]]:
    """Import a definition, and put it into the list: what the import sets is kept for it alone.

    `where` names its section, as in errors.
    """
    where = where.rpartition(": ")[2].removesuffix(".python")
    outer, usual = decimal.getcontext(), usual_arithmetic()
    # What code that ran before has set in this thread is not this one's.
    decimal.setcontext(usual.copy())
    made: list[object] = []
    try:
        yield made
        context = decimal.getcontext().copy()
    finally:
        decimal.setcontext(outer)
    changed = settings_of(context) != settings_of(usual)
    for definition in made:
        # A module is imported once, and says nothing when it is asked for again.
        if id(definition) not in _known:
            set_before = None if changed or not _set_by else _set_by[0]
            _known[id(definition)] = _Arithmetic(definition, where, context, set_before)
    if changed:
        _set_by.append(where)


def use_arithmetic(definition: object) -> None:
    """Calculate as a definition's import left it, in this thread from now on.

    Raises Refused as `check` does.
    """
    check(definition)
    if (known := _known.get(id(definition))) is not None:
        decimal.setcontext(known.context.copy())


def check(definition: object) -> None:
    """Raises Refused where it is not known how a definition calculates: a module that several of
    them import sets it for the first one only.
    """
    known = _known.get(id(definition))
    if known is not None and known.set_before is not None:
        raise Refused(
            f"nobody can say how {known.where} calculates with decimals: the code of "
            f"{known.set_before} sets it when it is imported, and both are in one process",
            hint="Run the command for one projection at a time.",
        )


def usual_arithmetic() -> decimal.Context:
    """How decimals are calculated with where nobody sets anything."""
    return Context().run(decimal.getcontext)


def settings_of(context: decimal.Context) -> tuple[object, ...]:
    """All that two contexts may differ in, without what happened in them."""
    traps = tuple(sorted(str(signal) for signal, on in context.traps.items() if on))
    size = (context.prec, context.rounding, context.Emin, context.Emax)
    return (*size, context.capitals, context.clamp, traps)
