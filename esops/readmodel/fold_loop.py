"""The loop of a fold over events, as Python code made for the columns of one table.

It runs once for each event, and a loop over the forms of the columns would take longer than the
fold itself. What is tested first is what holds most often: that a text is the very one of the row
before, that an integer is small.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from esops.readmodel.form import Convert, Form, Unfit
from esops.readmodel.types import Key, Row

FoldPairs = Callable[
    [
        Iterator[tuple[Key, Any]],
        MutableMapping[Key, Row | None],
        Callable[[Row | None, Any], Row | None],
    ],
    bool,
]


@dataclass(frozen=True, slots=True)
class LoopColumn:
    """A column as the loop treats it. `python` is the type that its values have so far, where that
    is noted; of a column of the key, `rekeyed` says that the row gets the key's value in another
    form; `text` says that it takes any text as it is.
    """

    name: str
    form: Form
    python: type | None = None
    in_key: bool = False
    rekeyed: bool = False
    text: bool = False

    @property
    def proven(self) -> bool:
        """Whether its quick test also proves its type. That of a key is not made."""
        quick, kind = self.form.quick, self.python
        if quick is None or kind is None or self.in_key:
            return False
        return quick.startswith(f"type(v) is {kind.__name__} and ")


@dataclass
class _LoopSource:
    """Pieces of the source, with a variable `v0`, `v1`, … for each column; and the names in it."""

    names: dict[str, Any]
    reads: list[str] = field(default_factory=list)
    guards: list[str] = field(default_factory=list)
    """What must hold so that `values` make the row."""
    values: list[str] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    """The variables for values of the row before, each with its column."""

    def add(self, n: int, column: LoopColumn, key: str | None) -> None:
        """Add column `n`; `key` is the variable that has the key's part, where it is in the key."""
        name, v = column.name, f"v{n}"
        self.reads.append(f"{v} = row[{name!r}]")
        if column.python is not None and not column.proven:
            self.names[f"t{n}"] = column.python
            self.guards.append(f"(type({v}) is t{n} or {v} is None)")
        if key is not None:
            self.guards.append(f"({v} is {key} or {v} == {key} and type({v}) is type({key}))")
            # Of a number that can be written in several ways, the key has the one that counts.
            self.values.append(f"{name!r}: {f'f{n}({key})' if column.rekeyed else v}")
            self.names[f"f{n}"] = column.form.convert
            return
        self.names |= column.form.names
        self.names[f"f{n}"] = _converted(column)
        # None is rare, so it is asked for last.
        tests = [] if column.form.quick is None else [_of(column.form.quick, v)]
        if column.form.quick is not None and column.text:
            # Most texts of a row are those of the row before, and a text does not change.
            self.texts.append((f"o{n}", name))
            tests.insert(0, f"{v} is o{n}")
        tests.append(f"{v} is None")
        self.values.append(f"{name!r}: {v} if {' or '.join(tests)} else f{n}({v})")


def fold_loop(
    columns: Sequence[LoopColumn],
    key_columns: Sequence[str],
    slow: Callable[[Key, Row], Row],
    current: Callable[[], FoldPairs],
) -> FoldPairs:
    """The loop for rows of these columns, in their order; see `Shape.fold`.

    `key_columns` are in the order of the key, which need not be that of the table. `slow` makes the
    row of a key and of what the function returned, whatever that is; `current` is the loop for all
    that come after that.
    """
    parts = _LoopSource({"slow": slow, "current": current, "Unfit": Unfit})
    several = len(key_columns) > 1
    keys = {name: f"k{n}" if several else "key" for n, name in enumerate(key_columns)}
    for n, column in enumerate(columns):
        parts.add(n, column, keys.get(column.name))
    source = "\n".join(
        [
            "def fold(pairs, rows, evolve):",
            " get = rows.get",
            " for key, event in pairs:",
            "  old = get(key)",
            *_if_any(parts.texts),
            "  row = evolve(old, event)",
            f"  if type(row) is dict and len(row) == {len(columns)}:",
            "   try:",
            *(f"    {each}" for each in parts.reads),
            *([f"    {', '.join(keys.values())} = key"] if several else []),
            f"    if {' and '.join(parts.guards) or True}:",
            f"     rows[key] = {{{', '.join(parts.values)}}}",
            "     continue",
            "   except (KeyError, Unfit): pass",
            "  if row is None:",
            "   rows[key] = None",
            "   continue",
            "  rows[key] = slow(key, row)",
            "  if current() is not fold: return True",
            " return False",
        ]
    )
    exec(source, parts.names)  # noqa: S102 - of the user's there are names of columns, as literals
    return cast("FoldPairs", parts.names["fold"])


def _of(quick: str, variable: str) -> str:
    return re.sub(r"\bv\b", variable, f"({quick})")


def _converted(column: LoopColumn) -> Convert:
    """What makes a value that the quick test does not know: one of another type than those so far
    is left to the slow way, which notes it.
    """
    convert, kind = column.form.convert, column.python
    if not column.proven:
        return convert

    def of_its_type(value: Any) -> Any:
        if type(value) is not kind:
            raise Unfit("it is of another type than those before")
        return convert(value)

    return of_its_type


def _if_any(texts: Sequence[tuple[str, str]]) -> list[str]:
    """Statements that keep these columns of the row `old`, which may be None."""
    if not texts:
        return []
    unknown = " = ".join(variable for variable, _ in texts)
    known = "; ".join(f"{variable} = old[{name!r}]" for variable, name in texts)
    return [f"  if old is None: {unknown} = None", f"  else: {known}"]
