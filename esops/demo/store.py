"""The shop's event store: its tables, a history that the server generates, and carts that are
written one by one as Marten would.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from importlib.resources import files

import orjson
import psycopg
from psycopg import sql

from esops.events import NewEvent

SCHEMA = "shop"


def create(connection: psycopg.Connection, schema: str = SCHEMA) -> None:
    """Create the empty store."""
    name = sql.Identifier(schema).as_string(connection)
    with connection.transaction():
        connection.execute(_read("shop.sql").replace("{schema}", name).encode())


def generate(
    connection: psycopg.Connection,
    events: int,
    schema: str = SCHEMA,
    *,
    after: int = 0,
    first_cart: int = 0,
    window: int = 2000,
) -> None:
    """Add a history of carts with ten events each, in one statement.

    `events` events follow the position `after`; the first cart has the number `first_cart`.
    `window`: how many other carts are opened while one is in use.
    """
    name = sql.Identifier(schema).as_string(connection)
    values = {
        "schema": name,
        "events": str(events),
        "after": str(after),
        "first_cart": str(first_cart),
        "window": str(window),
        "sequence": sql.Identifier(schema, "mt_events_sequence")
        .as_string(connection)
        .replace("'", "''"),
    }
    statement = _read("carts.sql")
    for key, value in values.items():
        statement = statement.replace("{" + key + "}", value)
    # As bytes, for psycopg's types take no str that was put together; all of it is ours here.
    with connection.transaction():
        connection.execute(statement.encode())
    connection.execute(
        sql.SQL("ANALYZE {}, {}").format(
            sql.Identifier(schema, "mt_events"), sql.Identifier(schema, "mt_streams")
        )
    )


def a_cart(chance: random.Random) -> Iterator[list[NewEvent]]:
    """One customer's cart: a list of events for each request, from the opening to the end."""
    yield [_event("shopping_cart_opened", {"ClientId": f"client-{chance.randrange(5000)}"})]
    items: list[dict[str, object]] = []
    for _ in range(chance.randrange(1, 7)):
        if items and chance.random() < 0.2:
            yield [_event("product_item_removed", {**items.pop(), "Quantity": 1})]
        else:
            number = chance.randrange(200)
            item: dict[str, object] = {
                "ProductId": f"product-{number}",
                "Quantity": chance.randrange(1, 4),
                "UnitPrice": 5 + number % 95,
            }
            items.append(item)
            yield [_event("product_item_added", item)]
    yield [
        _event("shopping_cart_confirmed" if chance.random() < 0.8 else "shopping_cart_canceled", {})
    ]


def _event(kind: str, data: dict[str, object]) -> NewEvent:
    return NewEvent(str(uuid.uuid4()), kind, orjson.dumps(data))


def _read(name: str) -> str:
    return files("esops.demo").joinpath(name).read_text(encoding="utf-8")
