"""Random values of every built-in type of Postgres, each in several spellings, and values that are
almost the same.

A value is (token, spelling): two values are equal to esops exactly if their tokens are, and a
spelling is a literal of the type, of which an equal value may have another.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Context, Decimal
from typing import Any

from hypothesis import strategies as st

Value = tuple[Hashable, str | None]
NULL: Value = (None, None)
_EXACT = Context(prec=200)
_ODD = "ab|AÅå,\"\\(){}[] '\n%:.01-~\N{COMBINING RING ABOVE}"


@dataclass(frozen=True)
class Type:
    """A type of a column: its name in DDL, and a strategy of its values."""

    ddl: str
    values: st.SearchStrategy[Value]
    near: Callable[[Any], st.SearchStrategy[Value]] | None = None
    """Values that are almost a token's."""
    respell: Callable[[Any], st.SearchStrategy[str]] | None = None
    """Other spellings of a token."""

    def again(self, value: Value) -> st.SearchStrategy[Value]:
        """The same value, spelled in any way."""
        if self.respell is None or value == NULL:
            return st.just(value)
        return self.respell(value[0]).map(lambda spelling: (value[0], spelling))

    def other(self, value: Value) -> st.SearchStrategy[Value]:
        """Another value, or the same: often almost the same."""
        if self.near is None or value == NULL:
            return st.just(NULL) | self.values
        return st.just(NULL) | self.values | self.near(value[0])


def _plain(ddl: str, values: st.SearchStrategy[Any], spelled: Callable[[Any], str] = str) -> Type:
    return Type(ddl, values.map(lambda value: (value, spelled(value))))


def _text(ddl: str, longest: int = 8, token: Callable[[str], str] = lambda text: text) -> Type:
    texts = st.text(_ODD, max_size=longest)

    def value(text: str) -> Value:
        return token(text), text

    def near(text: str) -> st.SearchStrategy[Value]:
        changed = [
            text[1:],
            text[:-1],
            text.swapcase(),
            text + " ",
            text + "|",
            text.rstrip(),
            "NULL",
        ]
        return st.sampled_from([value(each[:longest]) for each in changed])

    return Type(ddl, texts.map(value), near)


# -- numbers


def _integer(ddl: str, bits: int) -> Type:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    numbers = st.integers(low, high) | st.sampled_from([low, high, 0, -1])

    def near(number: int) -> st.SearchStrategy[Value]:
        bit = st.integers(0, bits - 2)
        return bit.map(lambda at: (number ^ (1 << at), str(number ^ (1 << at))))

    return Type(ddl, numbers.map(lambda number: (number, str(number))), near)


def _decimal_text(value: Decimal, zeros: int) -> str:
    text = format(value, "f")
    if not zeros or not value.is_finite():
        return text
    return text + ("" if "." in text else ".") + "0" * zeros


def _canonical(value: Decimal) -> Decimal:
    # Of all digits, and without a sign of zero.
    return _EXACT.normalize(value) + 0 if not value else _EXACT.normalize(value)


def _numeric(ddl: str = "numeric", *, special: bool = True) -> Type:
    finite = st.decimals(-(10**20), 10**20, allow_nan=False, places=9) | st.integers(
        -(10**30), 10**30
    ).map(Decimal)
    odd = st.sampled_from(["NaN", "Infinity", "-Infinity"] if special else ["0"])

    def respell(token: str) -> st.SearchStrategy[str]:
        return st.integers(0, 3).map(lambda zeros: _decimal_text(Decimal(token), zeros))

    def value(number: Decimal) -> Value:
        return str(_canonical(number)), _decimal_text(number, 0)

    def near(token: str) -> st.SearchStrategy[Value]:
        number = Decimal(token)
        # One more in the last of many digits: not all of them would survive a float.
        return st.just(value(number if not number.is_finite() else _step(number)))

    return Type(ddl, (finite | odd.map(Decimal)).map(value), near, respell)


def _step(number: Decimal) -> Decimal:
    return Decimal(format(number, "f") + ("" if number.as_tuple().exponent < 0 else ".") + "01")


def _float(ddl: str, width: int) -> Type:
    form = {32: ("<f", "<I"), 64: ("<d", "<Q")}[width]

    def value(number: float) -> Value:
        bits = struct.unpack(form[1], struct.pack(form[0], number))[0]
        # All that is not a number is one value; 0 and -0 are two.
        return ("NaN" if math.isnan(number) else bits), repr(number)

    def near(token: Any) -> st.SearchStrategy[Value]:
        if token == "NaN":
            return st.just(value(0.0))

        def flip(at: int) -> Value:
            return value(struct.unpack(form[0], struct.pack(form[1], token ^ (1 << at)))[0])

        return st.integers(0, width - 1).map(flip)

    return Type(ddl, st.floats(width=width).map(value), near)


# -- documents


def _documents() -> st.SearchStrategy[Any]:
    numbers = st.integers(-(10**20), 10**20) | st.decimals(
        -(10**9), 10**9, allow_nan=False, places=4
    )
    leaf = st.none() | st.booleans() | numbers | st.text(_ODD, max_size=5)
    strings = st.sampled_from(["1.0", "1.00", '"1.0', "\\1.10", "a.0 ", "0.0]"])
    return st.recursive(
        leaf | strings,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text('ab.0"', max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    )


def _document_token(value: Any) -> Hashable:
    if isinstance(value, dict):
        return ("{", frozenset((key, _document_token(each)) for key, each in value.items()))
    if isinstance(value, list):
        return ("[", tuple(map(_document_token, value)))
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return ("1", str(_canonical(Decimal(value))))
    return (type(value).__name__, value)


def _document_text(value: Any, zeros: int) -> str:
    if isinstance(value, dict):
        # Another order of keys where there are zeros, too.
        items = sorted(value.items(), reverse=bool(zeros % 2))
        pairs = (f"{json.dumps(key)}: {_document_text(each, zeros)}" for key, each in items)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_document_text(each, zeros) for each in value) + "]"
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return _decimal_text(Decimal(value), zeros)
    return json.dumps(value)


def _from_token(token: Any) -> Any:
    kind, value = token
    if kind == "{":
        return {key: _from_token(each) for key, each in value}
    if kind == "[":
        return [_from_token(each) for each in value]
    return Decimal(value) if kind == "1" else value


def _document(ddl: str) -> Type:
    def value(document: Any) -> Value:
        return _document_token(document), _document_text(document, 0)

    def respell(token: Any) -> st.SearchStrategy[str]:
        return st.integers(0, 3).map(lambda zeros: _document_text(_from_token(token), zeros))

    def near(token: Any) -> st.SearchStrategy[Value]:
        document = _from_token(token)
        return st.sampled_from([value([document]), value(_changed(document)), value(str(document))])

    return Type(ddl, _documents().map(value), near, respell)


def _changed(document: Any) -> Any:
    """One leaf is another."""
    if isinstance(document, dict) and document:
        key = min(document)
        return {**document, key: _changed(document[key])}
    if isinstance(document, list) and document:
        return [*document[:-1], _changed(document[-1])]
    if isinstance(document, str):
        return document + "0"
    if isinstance(document, Decimal):
        return _step(document)
    return {False: True, True: False, None: False}.get(document) if not isinstance(
        document, (dict, list)
    ) else [[], []]  # fmt: skip


# -- what is made of others


def _quoted(text: str | None) -> str:
    if text is None:
        return "NULL"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _made(
    ddl: str, parts: st.SearchStrategy[list[Value]], form: Callable[[list[str | None]], str],
    again: Callable[[list[Value]], st.SearchStrategy[list[Value]]],
) -> Type:  # fmt: skip
    known: dict[Hashable, list[Value]] = {}

    def value(values: list[Value]) -> Value:
        token = tuple(token for token, _ in values)
        known[token] = values
        return token, form([spelling for _, spelling in values])

    return Type(
        ddl,
        parts.map(value),
        respell=lambda token: again(known[token]).map(value).map(lambda made: made[1]),
        near=lambda token: st.just(value([*known[token][:-1], NULL])) if known[token] else parts.map(value),
    )  # fmt: skip


def array_of(element: Type) -> Type:
    """An array of a type."""
    return _made(
        f"{element.ddl}[]",
        st.lists(element.values | st.just(NULL), max_size=3),
        lambda spelled: "{" + ",".join(map(_quoted, spelled)) + "}",
        lambda values: st.tuples(*map(element.again, values)).map(list),
    )


def row_of(ddl: str, *fields: Type) -> Type:
    """A composite type with these fields."""
    return _made(
        ddl,
        st.tuples(*(field.values | st.just(NULL) for field in fields)).map(list),
        lambda spelled: "(" + ",".join("" if s is None else _quoted(s) for s in spelled) + ")",
        lambda values: st.tuples(
            *(field.again(value) for field, value in zip(fields, values, strict=True))
        ).map(list),
    )


def _range(ddl: str, element: Type, order: Callable[[Any], Any]) -> Type:
    """A range with both bounds; `order` sorts tokens."""

    def sort(pair: list[Value]) -> list[Value]:
        return sorted(pair, key=lambda value: order(value[0]))

    two = st.lists(element.values, min_size=2, max_size=2, unique_by=lambda value: value[0])
    made = _made(
        ddl,
        two.map(sort),
        lambda spelled: f"[{spelled[0]},{spelled[1]})",
        lambda values: st.tuples(*map(element.again, values)).map(list),
    )
    return Type(ddl, made.values, None, made.respell)


# -- times and the rest

_MICROSECONDS = st.integers(-(10**15), 10**15)


def _instant(token: int, zone: int) -> str:
    """Microseconds since 2000 as a timestamptz, written in a zone of some hours."""
    seconds, rest = divmod(token + zone * 3_600_000_000, 1_000_000)
    days, seconds = divmod(seconds, 86_400)
    day = date(2000, 1, 1) + timedelta(days=days)
    hours, seconds = divmod(seconds, 3600)
    return f"{day.isoformat()} {hours:02}:{seconds // 60:02}:{seconds % 60:02}.{rest:06}{zone:+03}"


TIMESTAMPTZ = Type(
    "timestamptz",
    _MICROSECONDS.map(lambda token: (token, _instant(token, 0))),
    lambda token: st.just((token + 1, _instant(token + 1, 0))),
    lambda token: st.integers(-11, 11).map(lambda zone: _instant(token, zone)),
)
TIMESTAMP = Type(
    "timestamp",
    _MICROSECONDS.map(lambda token: (token, _instant(token, 0)[:-3])),
    lambda token: st.just((token + 1, _instant(token + 1, 0)[:-3])),
)
INTERVAL = Type(
    "interval",
    st.tuples(st.integers(-20, 20), st.integers(-40, 40), st.integers(-(10**11), 10**11)).map(
        lambda parts: (parts, f"{parts[0]} months {parts[1]} days {parts[2]} microseconds")
    ),
    lambda parts: st.sampled_from([(0, 1, 0), (0, 0, 86_400_000_000), (1, 0, 0), (0, 30, 0)]).map(
        lambda parts: (parts, f"{parts[0]} months {parts[1]} days {parts[2]} microseconds")
    ),
)
NUMERIC, JSONB, TEXT = _numeric(), _document("jsonb"), _text("text")
INT4, FLOAT8 = _integer("int4", 32), _float("float8", 64)
_BYTE = st.integers(0, 255)
TYPES = [
    TEXT,
    _text("varchar(8)"),
    _text("char(8)", token=lambda text: text.rstrip(" ")),
    _text("bpchar"),
    _text("name"),
    _integer("int2", 16),
    INT4,
    _integer("int8", 64),
    NUMERIC,
    _float("float4", 32),
    FLOAT8,
    JSONB,
    _document("json"),
    TIMESTAMPTZ,
    TIMESTAMP,
    INTERVAL,
    _plain("bool", st.booleans()),
    _plain("bytea", st.binary(max_size=4), lambda value: "\\x" + value.hex()),
    _plain("uuid", st.uuids()),
    _plain("date", st.dates()),
    _plain("time", st.times()),
    _plain("timetz", st.tuples(st.times(), st.integers(-11, 11)), lambda v: f"{v[0]}{v[1]:+03}"),
    _plain("bit(4)", st.text("01", min_size=4, max_size=4)),
    _plain("bit varying", st.text("01", max_size=5)),
    _plain("inet", st.tuples(_BYTE, st.integers(0, 32)), lambda v: f"10.0.0.{v[0]}/{v[1]}"),
    _plain("cidr", _BYTE, lambda v: f"10.0.{v}.0/24"),
    _plain("macaddr", _BYTE, lambda v: f"08:00:2b:01:02:{v:02x}"),
    _plain("money", st.integers(-9999, 9999)),
    _plain("oid", st.integers(0, 2**32 - 1)),
    _plain("pg_lsn", st.integers(0, 2**31), lambda v: f"{v:X}/{v:X}"),
    _plain("regproc", st.sampled_from(range(1200, 1220))),
    _plain("tsvector", st.sampled_from(["a", "'a b'", "a:1 b:2", "a:1A b:2"])),
    _plain("jsonpath", st.sampled_from(["$", "$.a", "$.b"]), lambda v: v),
    _plain("mood_", st.sampled_from(["", "Happy", "happy", "a|b"])),
    _plain("point", st.tuples(_BYTE, _BYTE)),
    array_of(TEXT),
    array_of(NUMERIC),
    array_of(JSONB),
    array_of(FLOAT8),
    array_of(TIMESTAMPTZ),
    row_of("plain_", TEXT, INT4),
    row_of("made_", NUMERIC, TEXT, JSONB),
    array_of(row_of("made_", NUMERIC, TEXT, JSONB)),
    Type("price_", NUMERIC.values, NUMERIC.near, NUMERIC.respell),
    Type("doc_", JSONB.values, JSONB.near, JSONB.respell),
    _range("int4range", _integer("int4", 16), int),
    _range("numrange", _numeric(special=False), Decimal),
    _range("tstzrange", TIMESTAMPTZ, int),
]
DDL = """
CREATE TYPE mood_ AS ENUM ('', 'Happy', 'happy', 'a|b');
CREATE TYPE plain_ AS (a text, b int4);
CREATE TYPE made_ AS ("a.b" numeric, b text, c jsonb);
CREATE DOMAIN price_ AS numeric; CREATE DOMAIN doc_ AS jsonb;
"""
