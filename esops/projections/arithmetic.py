"""How the code of a projection calculates with decimals.

A module that sets it when it is imported (`decimal.getcontext().prec = 50`) sets it for the thread
that imports it, and for all that this thread does afterwards. So each projection of a process
keeps what its own import left, wherever its code is run; and what one sets is in force for no
other one.

A module is imported once, so of one that several projections import, only the first can be seen to
set anything. What the others would have got is asked of a process that imports nothing else.
"""

from __future__ import annotations

import decimal
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from esops.errors import Refused
from esops.projections.another_process import ask

_PLAIN = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    definition: object
    """Kept, so that no other object gets its id."""
    where: str
    module: str
    directory: Path
    context: decimal.Context
    set_before: str | None
    """Which other code had set it in this process before this one was imported."""


_known: dict[int, _Arithmetic] = {}
_set_by: list[str] = []
"""Whose import has changed it, in this process."""


@contextmanager
def importing(where: str, module: str, directory: Path) -> Iterator[list[object]]:
    """Import a definition, and put it into the list: what the import sets is kept for it alone.

    `where` names its section, as in errors.
    """
    where = where.rpartition(": ")[2].removesuffix(".python")
    outer, usual = decimal.getcontext(), usual_arithmetic()
    set_before = _set_by[0] if _set_by else None
    if set_before is None and module in sys.modules and settings_of(outer) != settings_of(usual):
        set_before = "the program"  # which has imported it itself, and calls esops
    # What code that ran before has set in this thread is not this one's.
    decimal.setcontext(usual.copy())
    made: list[object] = []
    try:
        yield made
        context = decimal.getcontext().copy()
    finally:
        decimal.setcontext(outer)
    for definition in made:
        # It says nothing when it is asked for again.
        if id(definition) not in _known:
            of = _Arithmetic(definition, where, module, directory, context, set_before)
            _known[id(definition)] = of
    if settings_of(context) != settings_of(usual):
        _set_by.append(where)


def use_arithmetic(definition: object) -> None:
    """Calculate as a definition's import leaves it, in this thread from now on.

    Raises Refused where nobody can say how that is.
    """
    if (known := _known.get(id(definition))) is None:
        return
    if known.set_before is not None:
        known = _known[id(definition)] = _asked(known)
    decimal.setcontext(known.context.copy())


@contextmanager
def kept_arithmetic() -> Iterator[None]:
    """Afterwards this thread calculates as before, for the program that calls esops."""
    before = decimal.getcontext()
    try:
        yield
    finally:
        decimal.setcontext(before)


def _asked(known: _Arithmetic) -> _Arithmetic:
    task = {"module": known.module, "directory": str(known.directory)}
    found = ask(__name__, task)
    if found is None:
        raise Refused(
            f"nobody can say how {known.where} calculates with decimals: the code of "
            f"{known.set_before} sets it when it is imported, and a process that imports "
            f"{known.module} alone gives no answer",
            hint="Run the command for one projection at a time.",
        )
    traps = [getattr(decimal, name) for name in found.pop("traps")]
    return replace(known, context=decimal.Context(**found, traps=traps), set_before=None)


def usual_arithmetic() -> decimal.Context:
    """How decimals are calculated with where nobody sets anything."""
    return Context().run(decimal.getcontext)


def settings_of(context: decimal.Context) -> Mapping[str, Any]:
    """All that two contexts may differ in, without what happened in them, as JSON takes it."""
    traps = sorted(signal.__name__ for signal, on in context.traps.items() if on)
    return {**{name: getattr(context, name) for name in _PLAIN}, "traps": traps}


def main() -> None:
    """Say what importing the module that standard input names makes of decimals."""
    # What a module prints must not mix with the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    task = json.loads(sys.stdin.read())
    sys.path.insert(0, task["directory"])
    sys.dont_write_bytecode = True
    importlib.import_module(task["module"])
    print(json.dumps(settings_of(decimal.getcontext())), file=answer, flush=True)


if __name__ == "__main__":
    main()
