"""What comes after a switch of a table that the application writes: back to the version before, and
an end to rows of two logics where no single row can be made again.
"""

from __future__ import annotations

import pytest

from tests.integration.test_inline_switch import configure
from tests.support import inline_writers

GROUPS = """
from esops import fold

@fold(key=lambda event: event.stream[0])
def cart(row, event):
    items = (row["data"]["Items"] if row else 0) + {factor} * event.json()["Quantity"]
    return {{"data": {{"Id": event.stream[0], "Items": items}}, "mt_dotnet_type": "Shop.Cart"}}
"""


@pytest.fixture
def carts(project, dsn, connection):
    inline_writers.create(connection)
    configure(project, dsn)
    return project


# -- rows of several streams


def append_to_group(connection, stream: str, factor: int) -> None:
    """An append whose document is that of all streams with the same first letter."""
    group = stream[0]
    before = connection.execute("SELECT count(*) FROM mt_events WHERE stream_id = %s", (stream,))
    (version,) = before.fetchone()
    with connection.transaction():
        inline_writers.insert(connection, stream, version, 1)
        row = connection.execute(
            "SELECT (data ->> 'Items')::int FROM mt_doc_cart WHERE id = %s", (group,)
        ).fetchone()
        items = (row[0] if row else 0) + factor
        inline_writers.upsert(connection, group, {"Id": group, "Items": items}, 0)


def test_rows_of_several_streams_are_right_after_another_rebuild(carts, connection, dsn):
    """What `finish` prints leads to the end."""
    configure(carts, dsn, verify={"ignore": ["mt_last_modified", "mt_version"]})

    def code(factor: int) -> None:
        carts.write("carts.py", GROUPS.format(factor=factor))

    def mixed() -> bool:
        return "rows may be of the old logic" in carts.ok("status").out

    code(1)
    for stream in ("a1", "a2", "b1"):
        append_to_group(connection, stream, 1)
    code(10)
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    append_to_group(connection, "a1", 1)  # an old instance
    # Another rebuild says nothing of whether it has ended.
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    append_to_group(connection, "a2", 1)
    assert mixed()
    refused = carts.run("projection", "finish", "carts", "--yes")
    told = "esops rebuild carts --blue-green --max-diff 100%"
    assert (refused.code, told in refused.err, mixed()) == (6, True, True)
    carts.ok(*told.split()[1:])
    assert not mixed()
    assert {key: data["Items"] for key, (data, _) in inline_writers.documents(connection).items()}
    rows = connection.execute("SELECT id, (data ->> 'Items')::int FROM mt_doc_cart ORDER BY id")
    assert rows.fetchall() == [("a", 40), ("b", 10)]
    assert carts.run("projection", "finish", "carts", "--yes").code == 2
    # The same code again: nobody writes by another.
    carts.ok("rebuild", "--blue-green")
    assert not mixed()
    # Another one: the instances of today are those with the old code.
    code(7)
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    assert mixed()
