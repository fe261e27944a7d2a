"""When two values are equal, by type: defined here once, for buckets, rows, keys and samples.

Every value has a canonical text, and two values are equal exactly if their texts are the same
bytes. Most types' own text is that already: the session's settings are pinned (session.py), floats
are written with all their digits, and a text is not looked at through its collation. What is not
distinguished by value that way is listed here. docs/explanation/equality.md has it as a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from esops.postgres.types import TypeTree

JsonEquality = Literal["value", "text"]
_ZEROS = r'("(?:[^"\\]|\\.)*")|(\.[0-9]*[1-9])0+(?![0-9])|\.0+(?![0-9])'
"""Zeros at the end of a number's fraction, in the text of a jsonb; a string is matched as a whole,
so that nothing in it is.
"""
_MAY_HAVE_ZEROS = r"\.[0-9]*0([^0-9]|$)"
_UNREADABLE_AS_JSONB = r"\\u(0000|d[89a-f])|[0-9]e\+?[0-9]{4}"
"""What the text of a json may say and no jsonb can hold, for servers that cannot be asked."""
_OIDS = frozenset(
    {
        "regclass",
        "regcollation",
        "regconfig",
        "regdictionary",
        "regnamespace",
        "regoper",
        "regoperator",
        "regproc",
        "regprocedure",
        "regrole",
        "regtype",
    }
)
"""Numbers that are shown as names, of which two may have the same."""
_CAN_ASK = 160000
"""The first version of the server that says whether a text is a valid value."""


@dataclass(frozen=True, slots=True)
class Equality:
    """How values are compared on a server."""

    server_version: int
    """As in server_version_num."""
    json: JsonEquality = "value"

    def text(
        self, tree: TypeTree, value: sql.Composable, *, by_parts: bool = False
    ) -> sql.Composed:
        """The canonical text of a value, to be compared with others'; NULL for NULL.

        `by_parts` also takes those arrays, rows and ranges apart whose own text would do: where
        the other side's are.
        """
        return _bytes(self._text(tree, value, by_parts, 0))

    def quick_text(
        self, tree: TypeTree, value: sql.Composable, *, by_parts: bool = False
    ) -> sql.Composed:
        """A text that costs less: where it is the same, the values are equal; where it is not, they
        may be all the same.
        """
        if tree.name in {"json", "jsonb"} or (tree.kind != "scalar" and not self._names(tree)):
            return _bytes(_own_text(value))
        return self.text(tree, value, by_parts=by_parts)

    def key_text(self, tree: TypeTree, value: sql.Composable) -> sql.Composed:
        """A text that becomes the same value again where it is cast to the type."""
        return _bytes(
            self._text(tree, value, False, 0) if tree.kind == "scalar" else _own_text(value)
        )

    def of_jsonb(self, value: sql.Composable) -> sql.Composed:
        """The canonical text of a jsonb."""
        return _bytes(self._jsonb(value))

    def as_jsonb(
        self, value: sql.Composable, then: sql.Composable, otherwise: sql.Composable
    ) -> sql.Composed:
        """`then` where the text of a json can be a jsonb, `otherwise` elsewhere: a character with
        the code 0 cannot.
        """
        text = _own_text(value)
        can = (
            sql.SQL("pg_input_is_valid({}, 'jsonb')").format(text)
            if self.server_version >= _CAN_ASK
            else sql.SQL("{} !~* {}").format(text, sql.Literal(_UNREADABLE_AS_JSONB))
        )
        return sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(can, then, otherwise)

    def takes_apart(self, tree: TypeTree) -> bool:
        """Whether a type is compared by what it is made of, since its own text would not do."""
        return tree.kind != "scalar" and any(self._is_special(part) for _, part in tree.parts)

    def _is_special(self, tree: TypeTree) -> bool:
        if tree.kind != "scalar":
            return self.takes_apart(tree)
        return (
            tree.name == "numeric"
            or tree.name in _OIDS
            or (tree.name in {"json", "jsonb"} and self.json == "value")
        )

    def _names(self, tree: TypeTree) -> bool:
        return tree.name in _OIDS or any(self._names(part) for _, part in tree.parts)

    def _text(
        self, tree: TypeTree, value: sql.Composable, by_parts: bool, depth: int
    ) -> sql.Composable:
        if tree.below is not None:
            value = sql.SQL("({})::{}").format(value, sql.SQL(tree.below))
        if tree.kind != "scalar":
            if by_parts or self.takes_apart(tree):
                return self._parts(tree, value, by_parts, depth)
            return _own_text(value)
        if tree.name == "numeric":
            return sql.SQL("trim_scale({})::text").format(value)
        if tree.name == "bpchar" and tree.modifier < 0:
            # Without a length, blanks at the end are no padding; a cast would drop them.
            return sql.SQL("textin(bpcharout({}))").format(value)
        if tree.name in _OIDS:
            return sql.SQL("({})::oid::text").format(value)
        if tree.name == "jsonb" and self.json == "value":
            return self._jsonb(value)
        if tree.name == "json" and self.json == "value":
            as_jsonb = self._jsonb(sql.SQL("({})::text::jsonb").format(value))
            return self.as_jsonb(value, as_jsonb, _own_text(value))
        return _own_text(value)

    def _jsonb(self, value: sql.Composable) -> sql.Composable:
        """Keys are sorted and strings are written in one way in a jsonb's text; only numbers are
        not.
        """
        if self.json == "text":
            return _own_text(value)
        # OFFSET keeps the planner from writing the text twice.
        return sql.SQL(
            "(SELECT CASE WHEN d.t ~ {may} THEN regexp_replace(d.t, {zeros}, '\\1\\2', 'g') "
            "ELSE d.t END FROM (SELECT {text} AS t OFFSET 0) AS d)"
        ).format(
            may=sql.Literal(_MAY_HAVE_ZEROS),
            zeros=sql.Literal(_ZEROS),
            text=_bytes(_own_text(value)),
        )

    def _parts(
        self, tree: TypeTree, value: sql.Composable, by_parts: bool, depth: int
    ) -> sql.Composable:
        if tree.kind == "composite":
            fields = sql.SQL(", ").join(
                self._text(
                    part,
                    sql.SQL("({}).{}").format(value, sql.Identifier(name)),
                    by_parts,
                    depth,
                )
                for name, part in tree.parts
            )
            # A row of nothing but NULL is one too for IS NULL.
            return sql.SQL("CASE WHEN {} IS NOT NULL THEN ROW({})::text END").format(
                _own_text(value), fields
            )
        (_, part), *_rest = tree.parts
        if tree.kind == "range":
            bounds = sql.SQL(", ").join(
                self._text(part, sql.SQL("{}({})").format(sql.SQL(end), value), by_parts, depth)
                for end in ("lower", "upper")
            )
            made = sql.SQL("ROW({}, lower_inc({v}), upper_inc({v}), isempty({v}))::text").format(
                bounds, v=value
            )
        else:
            name = sql.Identifier(f"e{depth}")
            each = self._text(part, sql.SQL("{}.v").format(name), by_parts, depth + 1)
            # An array may begin at another index than 1, and have several dimensions.
            dimensions = sql.SQL("array_dims({}), " if tree.kind == "array" else "").format(value)
            made = sql.SQL(
                "(SELECT ROW({}array_agg({}))::text FROM (SELECT unnest({}) AS v) AS {})"
            ).format(dimensions, each, value, name)
        return sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END").format(value, made)


def _own_text(value: sql.Composable) -> sql.Composable:
    return sql.SQL("({})::text").format(value)


def _bytes(text: sql.Composable) -> sql.Composed:
    # In a column's own collation, 'Bob' may be 'BOB'.
    return sql.SQL('({} COLLATE "C")').format(text)
