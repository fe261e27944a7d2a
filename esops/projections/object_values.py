"""What objects hold: their attributes, their content, and what they are made from."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from contextlib import suppress
from types import CellType, MemberDescriptorType
from typing import Any

_OF_THE_PROCESS = {"os", "weakref", "_weakref", "random", "threading", "_thread"}
_KINDS: tuple[Any, ...] = (dict, list, tuple, set, frozenset, str, bytes, int, float)


def attempt(look: Callable[[], Any], otherwise: Any = None) -> Any:
    """What a look at a value gives, where the value lets itself be looked at: a proxy may not."""
    try:
        return look()
    except Exception:  # noqa: BLE001 - code of the user's, which may raise anything
        return otherwise


def filled(cell: CellType) -> bool:
    """Whether a closure's variable has a value yet."""
    try:
        cell.cell_contents  # noqa: B018 - empty where it is of a function that still runs
    except ValueError:
        return False
    return True


def state(value: Any) -> dict[str, Any]:
    """The attributes of an object itself."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in {"__dict__", "__weakref__"}:
                found[name] = getattr(value, name)
    return found


def content(value: Any) -> list[Any]:
    """What an object of a class of the project holds as one of Python's own types."""
    for kind in _KINDS:
        if isinstance(value, kind):
            return [kind(value)]
    return []


def reduced(value: Any) -> list[Any]:
    """What makes an object of Python's library again; of what cannot be made again, nothing."""
    if type(value).__module__ in _OF_THE_PROCESS:
        return []  # it is of this process
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        found = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - objects say so in many ways
        return []
    if isinstance(found, str):
        return [found]
    function, arguments, state, items, pairs = (*found, None, None, None)[:5]
    return [function, arguments, state, list(items or ()), dict(pairs or ())]


def attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object itself, private slots too, past all code of its class."""
    own = attempt(lambda: object.__getattribute__(value, "__dict__"))
    found = dict(own) if type(own) is dict else {}
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, MemberDescriptorType):
                with suppress(AttributeError):  # it has no value yet
                    found[name] = member.__get__(value, kind)
    return found
