"""The form in which each column gives its values back, and how any value gets it.

A fold sees its rows from a cache, and after a restart from the table. Both have to be the same, so
each value gets the form of its column as soon as the function has returned it. docs/reference/
projections.md has the table of forms. Python converts the usual types; the server is asked for all
others, which then are what it makes of them.

Numbers in numeric, uuids and times come back as the type that the function writes: that is noted
with the version, and only ever becomes wider.
"""

from __future__ import annotations

import math
import re
import struct
import uuid
from datetime import time, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from esops.postgres.catalog import Column
from esops.readmodel.form import Ask, Form, Unfit
from esops.readmodel.json_forms import binary, characters, dumps, plain
from esops.readmodel.time_forms import TIMES, time_form
from esops.readmodel.types import wider

_PRECISE = re.compile(r"(timestamp|time)(\(\d\)) (with(?:out)? time zone)(.*)")
_MODIFIED = re.compile(
    r"(?P<name>[a-z ]+?)(?:\((?P<first>\d+)(?:,(?P<second>\d+))?\))?(?P<array>\[\])?"
)
_INTEGERS = {"smallint": 15, "integer": 31, "bigint": 63}
_WIDE = Context(prec=150_000, Emax=999_999, Emin=-999_999)
_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
_DECIMAL = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,6})?\s*|\s*NaN\s*")
_ROUNDED = 1 << 52
"""A float of this size has no fraction: adding and subtracting it rounds."""


def keeps_type(column: Column) -> bool:
    """Whether the column's values come back as the type that the function writes."""
    base = _base(column)
    return base in {"numeric", "uuid"} or base in TIMES


def written_type(column: Column, known: str | None, value: Any) -> str:
    """The type to note for a column when this value, which is not None, is written to it."""
    if not keeps_type(column):
        return "value"
    if _base(column) == "numeric":
        kinds: tuple[type, ...] = (int, float)
        found = next((kind.__name__ for kind in kinds if isinstance(value, kind)), "Decimal")
    else:
        found = "str" if isinstance(value, str) else "value"
    return wider(None if known == "value" else known, found)


def form_of(column: Column, written: str | None, ask: Ask) -> Form:
    """The form of a column whose values are of that type so far (see `written_type`)."""
    parts = _modified(column)
    if column.kind == "citext" and column.type.rpartition(".")[2] == "citext":
        return _text(None)
    if parts is None:
        return _other(column, ask)
    name, first = parts["name"], int(parts["first"]) if parts["first"] else None
    if parts["array"]:
        return _array(column, ask)
    if name in TIMES:
        return time_form(column, name, first, written, ask)
    if name in {"text", "character varying"}:
        return _text(first)
    if name == "numeric":
        return _numeric(first, int(parts["second"] or 0), written)
    if name == "character" and first is not None:
        return _padded(first)
    if name in _INTEGERS:
        return _integer(_INTEGERS[name])
    return _uuid(written) if name == "uuid" else _simple(column, ask)


def _simple(column: Column, ask: Ask) -> Form:
    """The form of a type without modifiers."""
    match column.type:
        case "double precision":
            return Form(_double, quick="type(v) is float")
        case "real":
            few = "float('%.6g' % v) == v and 1e-30 < abs(v) < 1e30"
            return Form(
                lambda value: _real(column, value, ask), quick=f"type(v) is float and {few}"
            )
        case "boolean":
            return Form(lambda value: _boolean(column, value, ask), quick="type(v) is bool")
        case "bytea":
            return Form(lambda value: _bytes(column, value, ask), quick="type(v) is bytes")
        case "json":
            return Form(plain)
        case "jsonb":
            return Form(binary)
        case "interval":
            quick = "type(v) is timedelta"
            return Form(lambda value: ask(column, value), None, quick, {"timedelta": timedelta})
        case "time without time zone":
            quick = "type(v) is time and v.tzinfo is None and not v.fold"
            return Form(lambda value: ask(column, value), None, quick, {"time": time})
    return _other(column, ask)


def _other(column: Column, ask: Ask) -> Form:
    """The form of a type that only the server knows, such as a domain."""
    document = {"json": plain, "jsonb": binary}.get(column.kind)
    if document is None:
        return Form(lambda value: ask(column, value))

    def convert(value: Any) -> Any:
        made = document(value)
        ask(column, dumps(made).decode())
        return made

    return Form(convert)


def key_form(column: Column, ask: Ask) -> Form:
    """The form of a column in a key: equal in Python where the column takes it for equal, and only
    there.
    """
    base = _base(column)
    if base == "uuid":
        return form_of(column, "str", ask)
    form = form_of(column, None, ask)
    if base in {"numeric", "real", "double precision"}:
        return Form(lambda value: _key_number(form.convert(value)))
    return form


def is_plain_text(column: Column) -> bool:
    """Whether the column holds every text, as it is."""
    return column.type in {"text", "character varying"}


def length_of(column: Column) -> int | None:
    """The n of varchar(n) or char(n)."""
    parts = _modified(column)
    return int(parts["first"]) if parts is not None and parts["first"] else None


def is_number(value: Any) -> bool:
    """Whether a value is the text of a decimal number."""
    return isinstance(value, str) and _DECIMAL.fullmatch(value) is not None


def _modified(column: Column) -> re.Match[str] | None:
    """A built-in type by its name, its modifiers, and whether it is an array."""
    return _MODIFIED.fullmatch(_PRECISE.sub(r"\1 \3\2\4", column.type))


def _base(column: Column) -> str:
    parts = _modified(column)
    return "" if parts is None or parts["array"] else parts["name"]


def _key_number(value: Any) -> Any:
    if value.is_nan() if isinstance(value, Decimal) else math.isnan(value):
        raise Unfit("NaN is no key: it does not equal itself")
    if isinstance(value, float):
        return value + 0.0  # without a negative zero
    # 1.50 and 1.5 are one key, and are written one way.
    made = Decimal(value).normalize(_WIDE)
    if not made.is_finite():
        return made
    exponent = made.as_tuple().exponent
    assert isinstance(exponent, int)
    return made.quantize(Decimal(1), context=_WIDE) if exponent > 0 else made


def _text(most: int | None) -> Form:
    def convert(value: Any) -> str:
        text = _as_text(value)
        if most is not None and len(text) > most:
            raise Unfit(f"it has {len(text)} characters")
        return characters(text)

    quick = 'type(v) is str and v.isascii() and "\\0" not in v'
    return Form(convert, quick=quick if most is None else f"{quick} and len(v) <= {most}")


def _padded(length: int) -> Form:
    def convert(value: Any) -> str:
        text = _as_text(value).rstrip(" ")
        if len(text) > length:
            raise Unfit(f"it has {len(text)} characters")
        return characters(text).ljust(length)

    quick = f'type(v) is str and len(v) == {length} and v.isascii() and "\\0" not in v'
    return Form(convert, quick=quick)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value if type(value) is str else str.__str__(value)
    # Whoever writes True finds 't' or 'True', and both 'f' and 'False' are true.
    if isinstance(value, int | float | Decimal | uuid.UUID) and not isinstance(value, bool):
        return str(value)
    raise Unfit(f"it is no text; write the text that you mean, for example str({value!r:.40})")


def _integer(bits: int) -> Form:
    low, high = -(1 << bits), (1 << bits) - 1

    def convert(value: Any) -> int:
        made = _whole(value)
        if not low <= made <= high:
            raise Unfit(f"it is not between {low} and {high}")
        return made

    return Form(convert, quick=f"type(v) is int and {_between(low, high)}")


def _between(low: int, high: int) -> str:
    """Whether an integer lies between two bounds. CPython is quickest with those of 30 bits."""
    return f"({f'0 <= v < {1 << 30} or ' * (high >> 30 > 0)}{low} <= v <= {high})"


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return int(value)
    raise Unfit("it is no integer")


def _numeric(precision: int | None, scale: int, written: str | None) -> Form:
    loaded = {"int": _loaded_int, "float": _loaded_float}.get(written or "")

    def convert(value: Any) -> Any:
        made = _decimal(value, precision, scale)
        return made if loaded is None else loaded(made)

    no_negative_zero = "(v or sign(1, v) > 0)"
    if precision is None:
        quick = {
            "int": "type(v) is int and -10**18 < v < 10**18",
            "float": f"type(v) is float and v - v == 0 and {no_negative_zero}",
        }.get(written or "")
        return Form(convert, loaded, quick, {"sign": math.copysign})
    most = f"1e{precision - scale}"
    if written == "int":
        whole = 10 ** max(precision - scale, 0)
        return Form(convert, loaded, f"type(v) is int and {_between(1 - whole, whole - 1)}")
    if written == "float" and precision <= 15 and scale <= 15:
        # Dividing an integer by a power of ten gives the float nearest to that decimal.
        rounded = f"(v * {10**scale}.0 + m - m) / {10**scale}.0 == v"
        bounds = f"-{most} < v < {most} and {no_negative_zero}"
        names = {"m": 1.5 * _ROUNDED, "sign": math.copysign}
        return Form(convert, loaded, f"type(v) is float and {bounds} and {rounded}", names)
    digits = f"v.same_quantum(q{scale}) and v.adjusted() < {precision - scale}"
    quick = f"type(v) is Decimal and {digits} and (v or not v.is_signed())"
    return Form(
        convert, loaded, quick, {"Decimal": Decimal, f"q{scale}": Decimal(1).scaleb(-scale)}
    )


def _decimal(value: Any, precision: int | None, scale: int) -> Decimal:
    """The value as numeric has it, with its digits after the point."""
    made = _as_decimal(value)
    if made.is_nan():
        return Decimal("NaN")
    if made.is_infinite():
        if precision is not None:
            raise Unfit("it is infinite")
        return made
    if precision is None:
        exponent = made.as_tuple().exponent
        assert isinstance(exponent, int)
        if made.adjusted() >= 131_072 or exponent < -16_383:
            raise Unfit("it has too many digits")
        made = made.quantize(Decimal(1), context=_WIDE) if exponent > 0 else made
        return made or abs(made)
    unit = Decimal(1).scaleb(-scale)
    rounded = made.quantize(unit, context=_WIDE)
    if rounded != made and not (
        # A sum of floats differs from the decimal that is meant by what floats cannot tell apart.
        isinstance(value, float)
        and abs(rounded - made) <= min(Decimal(10) ** (precision - scale) / 2**48, unit / 100)
    ):
        raise Unfit(f"it has more than {scale} digits after the point; round it")
    if rounded and rounded.adjusted() >= precision - scale:
        raise Unfit(f"it has more than {precision - scale} digits before the point")
    return rounded or abs(rounded)


def _as_decimal(value: Any) -> Decimal:
    if isinstance(value, bool):
        raise Unfit("it is no number")
    if isinstance(value, Decimal):
        if value.is_snan():
            raise Unfit("it is a signalling NaN")
        return value
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(repr(float(value)))
    if is_number(value):
        try:
            return Decimal(value.strip())
        except InvalidOperation:
            pass
    raise Unfit("it is no number")


def _loaded_int(value: Decimal) -> Any:
    return int(value) if value.is_finite() and value == int(value) else value


def _loaded_float(value: Decimal) -> Any:
    """As a float, unless that would be another number."""
    made = float(value)
    return made if math.isnan(made) or Decimal(repr(made)) == value else value


def _double(value: Any) -> float:
    if isinstance(value, float):
        return float(value)
    number = _as_decimal(value)
    made = float(number)
    if not math.isnan(made) and Decimal(repr(made)) != number:
        raise Unfit("no float is exactly this number")
    return made


def _real(column: Column, value: Any, ask: Ask) -> float:
    double = _double(value)
    try:
        if double and math.isfinite(double) and not struct.unpack("f", struct.pack("f", double))[0]:
            raise Unfit("it is too small")
    except OverflowError:
        raise Unfit("it is too large") from None
    made: float = ask(column, repr(double))
    if made != double and not math.isnan(made):
        raise Unfit("real holds about six digits; round it")
    return made


def _boolean(column: Column, value: Any, ask: Ask) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in {0, 1}:
        return bool(value)
    if isinstance(value, str):
        made: bool = ask(column, value)
        return made
    raise Unfit("it is neither true nor false")


def _uuid(written: str | None) -> Form:
    def native(value: Any) -> uuid.UUID:
        if isinstance(value, uuid.UUID):
            return value if type(value) is uuid.UUID else uuid.UUID(int=value.int)
        try:
            return uuid.UUID(value)
        except (ValueError, TypeError, AttributeError):
            raise Unfit("it is no UUID") from None

    if written == "str":
        return Form(lambda value: str(native(value)), str)
    return Form(native, quick="type(v) is UUID", names={"UUID": uuid.UUID})


def _bytes(column: Column, value: Any, ask: Ask) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        made: bytes = ask(column, value)
        return made
    raise Unfit("it has no bytes")


def _array(column: Column, ask: Ask) -> Form:
    """An array of one dimension, element by element; others as the server gives them back."""
    element = Column(column.name, column.type.removesuffix("[]"), column.kind.removeprefix("_"))
    inner = form_of(element, None, ask)
    json = element.kind in {"json", "jsonb"}

    def convert(value: Any) -> Any:
        if isinstance(value, str) and not json:
            return ask(column, value)
        if not isinstance(value, list | tuple):
            raise Unfit("it is no list")
        if not json and any(isinstance(each, list | tuple) for each in value):
            return ask(column, list(value))
        return [None if each is None else inner.convert(each) for each in value]

    def loaded(value: Any) -> Any:
        again = inner.loaded
        if again is None:
            return value
        return [None if x is None else loaded(x) if type(x) is list else again(x) for x in value]

    return Form(convert, loaded if inner.loaded is not None else None)
