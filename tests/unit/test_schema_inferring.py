"""Schemas inferred from events: they accept all of them, reject what differs, and live in git."""

from __future__ import annotations

import copy
import json
import random
import uuid

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esops.errors import UsageError
from esops.events import Position, RecordedEvent
from esops.schema.checking.history import HistoryCheck
from esops.schema.files import BadSchemaFile, parse_schemas
from esops.schema.inferring import run
from esops.schema.inferring.generated import SchemaFolder, folder_name
from esops.schema.inferring.personal import suspected_by_name
from esops.schema.inferring.run import SchemaInference
from esops.schema.inferring.scalars import is_iban, is_phone


def event(data, number: int = 1, type: str = "Order") -> RecordedEvent:
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return RecordedEvent(f"e{number}", "s-1", number, Position((number,)), type, data, b"", None)


def inferred(payloads, *, batch: int = 7, **options):
    inference = SchemaInference()
    events = [event(each, number) for number, each in enumerate(payloads)]
    for at in range(0, len(events), batch):
        inference.take(events[at : at + batch])
    return list(inference.schemas(**options))


def broken(schemas, payloads) -> list:
    """What a check finds in payloads, against files of these schemas."""
    files = {f"{n}.json": orjson.dumps(each.document) for n, each in enumerate(schemas)}
    check = HistoryCheck(parse_schemas("schemas", files))
    check.take([event(each, number) for number, each in enumerate(payloads)])
    return [(each.path, each.rule) for each in check.violations.listed()]


names = st.sampled_from(
    ["a", "b", "email", "7", "2024-01-31", "ann@example.com", str(uuid.UUID(int=7)), "x\ny@z.w", ""]
) | st.text(max_size=3)  # fmt: skip
texts = st.text(max_size=5) | st.sampled_from(
    ["new", "paid", "a@b.c", "2024-01-31", "2024-01-31T10:00:00Z", "10:00:00Z", "1.2.3.4", "::1",
     "https://x.y/z", "P1D", str(uuid.UUID(int=5)), "\ud800", "DE89 3704 0044 0532 0130 00"]
)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)
)
payloads = st.lists(
    values | st.sampled_from([b"", b"\xff\x00", b"1e400", b"[1e400, 7, -1e999]", b'{"a": 1, "a": ""}']),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=60)
@given(payloads, st.booleans(), st.integers(1, 4))
def test_what_was_inferred_accepts_all_that_it_was_inferred_from(payloads, strict, batch):
    # Each value several times: then texts may be enums.
    repeated = [each for each in payloads for _ in range(25)]
    schemas = inferred(repeated, batch=batch * 40, strict=strict)
    assert broken(schemas, payloads) == []
    assert sum(each.events for each in schemas) == len(repeated)


def test_maps_with_very_many_members_and_names_that_are_data():
    chance = random.Random(3)
    big = {f"k{chance.random()}": n for n in range(1500)}
    grown = [{f"n{at}-{n}": "x" for n in range(300)} for at in range(8)]
    mixed = [{"total": 3, "by_day": {"2024-01-31": 1.5, "2024-02-01": 2}}]
    nested = [{"map": each} for each in (big, {"total": "x"}, *grown)]
    for each in ([big, {"total": 1}], grown, mixed, nested):
        assert broken(inferred(each), each) == []
    [schema] = inferred(mixed)
    assert broken([schema], [{"total": 3, "by_day": {"2025-05-05": "x"}}]) == [
        ("$.by_day[*]", "type")
    ]
    assert ("$.by_day.note", "additionalProperties") in broken(
        [schema], [{"total": 3, "by_day": {"note": 1}}]
    )


def test_shapes_without_end_are_described_together(monkeypatch):
    monkeypatch.setattr(run, "MOST_SHAPES", 5)
    each = [{"always": n, f"sometimes{n}": n} for n in range(30)]
    schemas = inferred(each)
    assert [s.shape for s in schemas if len(s.shape) < 12] == ["more"]
    assert broken(schemas, each) == []
    assert len(schemas) == 6
    assert broken(schemas, [{"sometimes7": 1}]) == [("$.always", "required")]


def order(number: int) -> dict:
    return {
        "id": str(uuid.UUID(int=number)),
        "at": "2024-01-31T10:00:00Z",
        "status": ["new", "paid", "sent"][number % 3],
        "total": number / 10,
        "lines": [{"sku": f"sku-{number}", "quantity": 1 + number % 4}],
        "paid": number % 2 == 0,
    }


def mutations():
    def at(*path):
        def reach(payload):
            for each in path[:-1]:
                payload = payload[each]
            return payload, path[-1]

        return reach

    for path in (
        ("id",),
        ("status",),
        ("total",),
        ("lines",),
        ("paid",),
        ("lines", 0, "sku"),
        ("lines", 0, "quantity"),
    ):
        reach = at(*path)

        def removed(payload, reach=reach):
            parent, name = reach(payload)
            del parent[name]

        def renamed(payload, reach=reach):
            parent, name = reach(payload)
            parent[f"{name}X"] = parent.pop(name)

        def other_type(payload, reach=reach):
            parent, name = reach(payload)
            parent[name] = {"was": 1} if not isinstance(parent[name], dict) else "text"

        def nulled(payload, reach=reach):
            parent, name = reach(payload)
            parent[name] = None

        def extra(payload, reach=reach):
            parent, name = reach(payload)
            parent["extra"] = 1

        yield from (
            (f"{kind.__name__} {path}", kind)
            for kind in (removed, renamed, other_type, nulled, extra)
        )
    yield "unknown value", lambda payload: payload.update(status="lost")
    yield "no uuid", lambda payload: payload.update(id="17")
    yield "no time", lambda payload: payload.update(at="yesterday")
    yield "no integer", lambda payload: payload["lines"][0].update(quantity=1.5)


@pytest.mark.parametrize(("kind", "mutate"), list(mutations()))
def test_what_differs_is_rejected(kind, mutate):
    mutated = copy.deepcopy(order(1))
    mutate(mutated)
    assert broken(ORDERS, [mutated]), kind


ORDERS = inferred([order(n) for n in range(90)], batch=20)


def test_ranges_are_remarks_unless_strict_and_no_values_are_none():
    each = [order(n) for n in range(90)]
    more = {**order(1), "total": 1e6}
    assert broken(ORDERS, [more]) == []
    assert broken(inferred(each, strict=True), [more]) == [("$.total", "maximum")]
    [plain] = inferred(each, values=False)
    text = json.dumps(plain.document)
    assert "x-observed" not in text
    assert "enum" not in text
    assert ORDERS[0].document["properties"]["total"]["x-observed"] == {
        "minimum": 0.0,
        "maximum": 8.9,
    }


@pytest.mark.parametrize(
    ("name", "above", "kind"),
    [
        ("email", "", "email"), ("EmailAddress", "", "email"), ("e_mail", "", None),
        ("customerEMail", "", "email"), ("ip_address", "", "ip"), ("clientIp", "", "ip"),
        ("IPAddress", "", "ip"), ("shippingAddress", "", "address"), ("PLZ", "", "address"),
        ("Straße", "", "address"), ("firstName", "", "name"), ("last_name", "", "name"),
        ("CustomerName", "", "name"), ("name", "customer", "name"), ("name", "product", None),
        ("productName", "", None), ("geburtsdatum", "", "birth"), ("dateOfBirth", "", "birth"),
        ("prénom", "", "name"), ("IBAN", "", "bank account"), ("ssn", "", "identity number"),
        ("phoneNumber", "", "phone"), ("ship", "", None), ("recipe", "", None), ("spanned", "", None),
        ("zipCode", "", "address"), ("teleport", "", None), ("membership", "", None),
    ],
)  # fmt: skip
def test_names_that_suggest_personal_data(name, above, kind):
    found = suspected_by_name(name, above)
    if name == "e_mail":
        assert found.kind == "email"
        return
    assert (None if found is None else found.kind) == kind


def test_values_that_look_like_personal_data_are_marked_and_never_written():
    each = [{"contact": f"p{n % 3}@example.com", "account": "DE89370400440532013000", "to": "+49 30 123456",
             "customer": {"name": ["Ann", "Bob"][n % 2]}} for n in range(80)]  # fmt: skip
    [schema] = inferred(each)
    assert {path: (s.by, s.kind) for path, s in schema.suspects.items()} == {
        "$.contact": ("values", "email"),
        "$.account": ("values", "iban"),
        "$.to": ("values", "phone"),
        "$.customer.name": ("name", "name"),
    }
    text = json.dumps(schema.document)
    assert not any(value in text for value in ("example.com", "Ann", "DE89", "123456"))
    assert not is_iban("DE89370400440532013001")
    assert not is_phone("2024-01-31")


@pytest.mark.parametrize(
    ("name", "enum"),
    [
        ("state", True), ("paymentMethod", True), ("kind", True), ("valid", True),
        ("productId", False), ("ProductID", False), ("order_ids", False), ("sku2", False),
        ("currency_code", False), ("apiKey", False), ("title", False),
    ],
)  # fmt: skip
def test_ids_and_free_texts_are_no_enums(name, enum):
    [found] = inferred([{name: "ab"[n % 2]} for n in range(50)])
    assert ("enum" in found.document["properties"][name]) is enum


def test_a_range_does_not_depend_on_the_order_of_equal_numbers():
    one, other = (inferred(each) for each in ([{"n": 0}, {"n": 0.0}], [{"n": 0.0}, {"n": 0}]))
    assert json.dumps([each.document for each in one]) == json.dumps([e.document for e in other])


def write(folder, schemas, **options) -> dict[str, str]:
    there = SchemaFolder(folder)
    done = [
        there.write(s.type, s.shape, s.document, force=options.get("force", False)) for s in schemas
    ]
    done += there.absent(
        [(s.type, s.shape) for s in schemas], None, remove=options.get("prune", False)
    )
    return {str(each.path.relative_to(folder)): each.state for each in done}


def test_files_live_in_git(tmp_path):
    [schema] = ORDERS
    name = f"Order/{schema.shape}.json"
    file = tmp_path / name
    assert write(tmp_path, ORDERS) == {name: "written"}
    text = file.read_bytes()
    assert write(tmp_path, ORDERS) == {name: "unchanged"}
    [other] = inferred([{"a": 1}])
    assert write(tmp_path, [other]) == {f"Order/{other.shape}.json": "written", name: "absent"}
    assert write(tmp_path, [other], prune=True) == {
        f"Order/{other.shape}.json": "unchanged",
        name: "removed",
    }
    assert not file.exists()
    write(tmp_path, ORDERS)
    edited = text.replace(b'"paid"', b'"PAID"', 1)
    file.write_bytes(edited)
    assert write(tmp_path, ORDERS)[name] == "edited"
    assert file.read_bytes() == edited
    assert write(tmp_path, [other], prune=True)[name] == "absent"
    moved = tmp_path / "sales" / "order.json"
    moved.parent.mkdir()
    file.rename(moved)
    assert write(tmp_path, ORDERS, force=True)["sales/order.json"] == "written"
    assert moved.read_bytes() == text
    moved.write_text(text.decode().replace('"x-shape"', f'"maximum": {10**30},\n "x-shape"'))
    assert write(tmp_path, ORDERS)["sales/order.json"] == "edited"
    moved.write_text("{")
    with pytest.raises(BadSchemaFile):
        SchemaFolder(tmp_path)


def test_what_is_in_the_way_of_a_file_is_seen(tmp_path):
    folder = tmp_path / "schemas"
    folder.mkdir()
    (folder / "_part.json").write_text("{}")
    assert write(folder, []) == {}
    [schema] = ORDERS
    name = f"Order/{schema.shape}.json"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "Order").symlink_to(elsewhere)
    assert write(folder, ORDERS) == {name: "written"}
    edited = json.loads((folder / name).read_bytes()) | {"title": "By hand"}
    (folder / name).write_text(json.dumps(edited))
    assert write(folder, ORDERS) == {name: "edited"}
    with pytest.raises(UsageError, match="is a file"):
        SchemaFolder(folder / "_part.json" / "schemas")


def test_folders_have_names_that_every_file_system_takes(tmp_path):
    types = [
        "Order",
        "order",
        "a/b",
        "../../etc/passwd",
        "CON",
        "nul.txt",
        "_x",
        ".git",
        "",
        "é",
        "x" * 300,
        "a:b",
        "a.",
        "\n",
    ]
    taken: list[str] = []
    for each in types:
        name = folder_name(each, taken)
        assert name.lower() not in {one.lower() for one in taken}
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
        assert name[0] not in "._"
        assert len(name) < 100
        taken.append(name)
    assert taken[0] == "Order"
    inference = SchemaInference()
    inference.take([event({"n": n}, n, each) for n, each in enumerate(types) if each])
    schemas = list(inference.schemas())
    assert set(write(tmp_path, schemas).values()) == {"written"}
    assert set(write(tmp_path, schemas).values()) == {"unchanged"}
    assert all(tmp_path in each.resolve().parents for each in tmp_path.rglob("*.json"))
