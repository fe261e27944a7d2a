"""Every kind of projection: the same rows as the fold's, over kills, restarts, poison and several
tables.
"""

from __future__ import annotations

import os
import shutil
import uuid

import psycopg
import pytest

from esops.config import load_config
from esops.errors import EsopsError
from esops.events import NewEvent
from esops.rebuild.api import rebuild
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, kinds, marten, shop
from tests.support.cases import thorough_but
from tests.support.databases import database

EVENTS = 800


# A fold is rebuilt and followed everywhere; handlers and a program are below, with more to do.
@pytest.fixture(params=thorough_but(kinds.KINDS, "sql"))
def kind(request):
    if request.param == "process" and shutil.which("node") is None:
        pytest.skip("there is no node")
    return request.param


@pytest.fixture
def made(kind, dsn, project):
    shop.make(dsn, EVENTS)
    kinds.configure(project, dsn, kind)
    return project


def test_each_kind_gives_the_rows_of_the_fold(made, connection, dsn):
    built = made.ok("rebuild", "--blue-green", "--output", "json").json
    assert (built["state"], built["events"], built["rows"]) == ("switched", EVENTS, 80)
    assert shop.check_version(connection, 1) == 80
    shop.more(dsn, 200)
    again = made.ok("rebuild", "--blue-green", "--output", "json", "--batch-size", "120").json
    assert (again["state"], again["events"], again["rows"], again["verification"]["differing"]) == (
        "switched",
        1_000,
        100,
        0,
    )
    shop.check_version(connection, 2)
    shop.more(dsn, 100)
    made.ok("run", "--until-caught-up")
    assert connection.execute(
        "SELECT position FROM esops.versions ORDER BY version"
    ).fetchall() == [("1100",), ("1100",)]
    assert (
        shop.table(connection, "cart_summary__v1")
        == shop.table(connection, "cart_summary__v2")
        == shop.truth(connection, 1_100)
    )
    made.ok("projection", "rollback", "cart_summary")
    shown = made.ok("projection", "show", "cart_summary", "--output", "json").json
    assert shown["active"] == 1


def _is_program(number: str, folder: str) -> bool:
    try:
        with open(f"/proc/{number}/cmdline", "rb") as file:
            return (
                b"cart_summary.js" in file.read() and os.readlink(f"/proc/{number}/cwd") == folder
            )
    except OSError:
        return False


def test_a_plan_shows_the_statement_and_how_it_is_done(dsn, project):
    shop.make(dsn, 500)
    kinds.configure(project, dsn, "sql")
    plan = project.ok("rebuild", "--blue-green", "--dry-run").out
    assert "INSERT INTO" in plan
    assert "-- Insert on cart_summary__v1" in plan
    assert "seq_id > '0'::bigint AND seq_id <= '500'::bigint" in plan


def test_a_statement_that_fails_stops_with_its_range(dsn, project, connection):
    shop.make(dsn, 500)
    kinds.configure(project, dsn, "sql")
    text = kinds.SQL.replace(
        "max(seq_id)\n",
        "CASE WHEN max(seq_id) > 300 THEN 1 / (max(seq_id) - max(seq_id)) ELSE max(seq_id) END\n",
    )
    (project.folder / "cart_summary_statement.sql").write_text(text)
    result = project.run("rebuild", "--blue-green", "--batch-size", "100")
    assert result.code == 6, result.err
    assert "division by zero" in result.err
    assert connection.execute("SELECT position FROM esops.versions").fetchone() == ("300",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"INSERT INTO {table}": "INSERT INTO nowhere"}, "the statement fails"),
        ({":after": "0"}, "does not name :after"),
        pytest.param(
            {"GROUP BY": "GRUPPIERT NACH"}, "the statement fails", marks=pytest.mark.thorough
        ),
    ],
)
def test_statements_that_cannot_work_are_refused_before(dsn, project, change, words):
    shop.make(dsn, 100)
    kinds.configure(project, dsn, "sql")
    text = kinds.SQL
    for old, new in change.items():
        text = text.replace(old, new)
    (project.folder / "cart_summary_statement.sql").write_text(text)
    result = project.run("rebuild", "--blue-green")
    assert result.code == 2
    assert words in result.err


def test_sql_is_refused_where_events_and_tables_are_apart(dsn, project, server):
    shop.make(dsn, 100)
    kinds.configure(project, dsn, "sql", options='readmodel = "far"')
    text = (project.folder / "esops.toml").read_text()
    with database(server) as far:
        project.write("esops.toml", text + f'\n[readmodels.far]\ndsn = "{far}"\n')
        result = project.run("rebuild", "--blue-green")
    assert result.code == 6
    assert "in another database" in result.err


TABLES = """
from esops import Handlers

carts = Handlers()

@carts.on("shopping_cart_opened")
def opened(event, write):
    write.insert("carts", {"cart_id": event.stream, "client": event.json()["ClientId"], "state":
    {"open": True, "lines": 0}})

@carts.on("product_item_added")
def added(event, write):
    data = event.json()
    key = {"cart_id": event.stream, "product": data["ProductId"]}
    if write.get("cart_items", key) is None:
        write.insert("cart_items", {**key, "quantity": data["Quantity"]})
        lines = write.get("carts", {"cart_id": event.stream})["state"]["lines"]
        write.update("carts", {"cart_id": event.stream}, {"state": {"open": True, "lines": lines +
        1}})
    else:
        write.increment("cart_items", key, {"quantity": data["Quantity"]})

@carts.on("product_item_removed")
def removed(event, write):
    data = event.json()
    write.increment("cart_items", {"cart_id": event.stream, "product": data["ProductId"]},
    {"quantity": -data["Quantity"]})
    write.execute("DELETE FROM {cart_items} WHERE cart_id = %s AND quantity <= 0", event.stream)

@carts.on("shopping_cart_canceled")
def canceled(event, write):
    write.delete("cart_items", {"cart_id": event.stream})
"""
TABLES_DDL = """
CREATE TABLE {carts} (cart_id text PRIMARY KEY, client text NOT NULL, state jsonb NOT NULL);
CREATE TABLE {cart_items} (cart_id text, product text, quantity integer NOT NULL, PRIMARY KEY
(cart_id, product));
CREATE INDEX ON {cart_items} (product);
"""


@pytest.fixture
def two_tables(dsn, project, connection):
    shop.make(dsn, 600)
    project.write("carts.py", TABLES)
    project.write("carts.sql", TABLES_DDL)
    project.write(
        "esops.toml",
        f"""
        [stores.shop]
        dsn = "{dsn}"
        schema = "shop"
        append = "quick"
        [projections.carts]
        kind = "handlers"
        python = "carts:carts"
        tables = ["carts", "cart_items"]
        ddl = "carts.sql"
        verify.assertions = [
            "SELECT count(*) > 0 FROM {{carts}}",
            "SELECT bool_and(quantity > 0) FROM {{cart_items}}",
        ]
        """,
    )
    return project


def items(connection, table: str) -> dict:
    rows = connection.execute(f"SELECT cart_id, product, quantity FROM {table}").fetchall()
    return {(cart, product): quantity for cart, product, quantity in rows}


def expected(connection) -> dict:
    found: dict = {}
    for stream, kind, data in connection.execute(
        "SELECT stream_id, type, data FROM shop.mt_events ORDER BY seq_id"
    ):
        key = (stream, data.get("ProductId"))
        if kind == "product_item_added":
            found[key] = found.get(key, 0) + data["Quantity"]
        elif kind == "product_item_removed":
            found[key] = found.get(key, 0) - data["Quantity"]
            if found[key] <= 0:
                del found[key]
        elif kind == "shopping_cart_canceled":
            found = {each: quantity for each, quantity in found.items() if each[0] != stream}
    return found


def test_several_tables_are_built_verified_switched_and_retired_together(
    two_tables, connection, dsn
):
    project = two_tables
    project.ok("rebuild", "carts", "--blue-green")
    assert items(connection, "cart_items") == expected(connection)
    assert connection.execute("SELECT count(*) FROM carts").fetchone() == (60,)
    shop.more(dsn, 200)
    built = project.ok("rebuild", "carts", "--blue-green", "--output", "json").json
    assert (built["state"], built["rows"]) == (
        "switched",
        connection.execute(
            "SELECT (SELECT count(*) FROM carts) + (SELECT count(*) FROM cart_items)"
        ).fetchone()[0],
    )
    assert built["verification"]["differing"] == 0
    assert items(connection, "cart_items__v2") == expected(connection)
    views = connection.execute(
        "SELECT view_name, table_name FROM information_schema.view_table_usage WHERE table_name "
        "LIKE 'cart%' ORDER BY 1"
    ).fetchall()
    assert views == [("cart_items", "cart_items__v2"), ("carts", "carts__v2")]
    project.ok("projection", "rollback", "carts")
    assert items(connection, "cart_items") == expected(connection), "blue was brought up to date"
    project.ok("projection", "switch", "carts", "--to", "2")
    project.ok("projection", "retire", "carts", "--yes")
    left = connection.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^cart' ORDER BY 1"
    ).fetchall()
    assert left == [("cart_items__v2",), ("carts__v2",)]


@pytest.mark.thorough
def test_a_difference_in_one_of_several_tables_is_shown_with_its_table(two_tables, connection, dsn):
    project = two_tables
    for _ in range(2):
        project.ok("rebuild", "carts", "--blue-green")
    text = (
        (project.folder / "carts.py")
        .read_text()
        .replace('"quantity": data["Quantity"]})', '"quantity": data["Quantity"] + 1})')
    )
    (project.folder / "carts.py").write_text(text)
    differs = project.run("rebuild", "carts", "--blue-green", "--output", "json")
    assert differs.code == 1
    assert differs.json["verification"]["columns"].keys() == {"cart_items.quantity"}
    assert {each["table"] for each in differs.json["verification"]["samples"]} == {"cart_items"}
    project.ok("rebuild", "carts", "--blue-green", "--abort", "--yes")
    assert connection.execute(
        "SELECT to_regclass('carts__v3'), to_regclass('cart_items__v3')"
    ).fetchone() == (None, None)


OPENED = """
from esops import Handlers

carts = Handlers()

@carts.on("shopping_cart_opened")
def opened(event, write):
    for table in TABLES:
        write.insert(table, {"cart_id": event.stream})
"""


@pytest.mark.parametrize(
    ("first", "switch"),
    [
        ("carts", "rename"),
        ("carts openings", "view"),
        pytest.param("carts openings", "rename", marks=pytest.mark.thorough),
    ],
)
def test_a_table_that_the_other_version_lacks(first, switch, dsn, project, connection):
    """Its version stays whole, and is followed, switched to and dropped with it."""
    shop.make(dsn, 60)
    tables = {1: first.split(), 2: ["carts", "others"]}

    def configure(number: int) -> None:
        names = tables[number]
        project.write(f"code{number}.py", OPENED.replace("TABLES", repr(names)))
        mark = (lambda _: "{table}") if len(names) == 1 else (lambda name: f"{{{name}}}")
        made = [f"CREATE TABLE {mark(each)} (cart_id text PRIMARY KEY);" for each in names]
        project.write("carts.sql", " ".join(made))
        project.configure(
            stores={"shop": {"dsn": dsn, "schema": "shop", "append": "quick"}},
            projections={
                "carts": {
                    "kind": "handlers",
                    "python": f"code{number}:carts",
                    "tables": names,
                    "ddl": "carts.sql",
                    "switch": switch,
                    "versions": {"1": {"python": "code1:carts"}},
                }
            },
        )

    def rows() -> dict[str, int]:
        """Of each table that the registry names."""
        known = connection.execute(
            "SELECT DISTINCT t.value ->> 1 FROM esops.versions, jsonb_each(tables) t "
            "WHERE state IN ('active', 'standby')"
        ).fetchall()
        return {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            for (name,) in known
        }

    def indexes() -> set[str]:
        found = connection.execute(
            "SELECT indexname FROM pg_indexes WHERE tablename ~ '^(carts|openings|others)'"
        )
        return {row[0] for row in found}

    for number in (1, 2):
        configure(number)
        built = project.ok("rebuild", "--blue-green").err
    assert ("v2 has no public.openings" in built) == ("openings" in first)
    back = project.ok("projection", "rollback", "carts").err
    assert "v1 has no public.others" in back
    shop.more(dsn, 20)
    project.ok("run", "--until-caught-up")
    assert len(set(rows().values())) == 1
    aside = {"carts__v2", "others__v2"}
    if switch == "rename":
        assert rows().keys() == {*tables[1], *aside}
        assert indexes() == {*(f"{e}_pkey" for e in tables[1]), "carts_pkey__v2", "others_pkey__v2"}
    else:
        assert rows().keys() == {*(f"{each}__v1" for each in tables[1]), *aside}
    forth = project.ok("projection", "switch", "carts", "--to", "2").err
    assert ("v2 has no public.openings" in forth) == ("openings" in first)
    assert len(set(rows().values())) == 1
    left = project.run("projection", "retire", "carts", "--yes")
    if switch == "rename":
        assert rows().keys() == set(tables[2])
        assert indexes() == {"carts_pkey", "others_pkey"}
    else:
        assert (left.code, "view openings" in left.err) == (6, True)


def test_tables_that_are_there_are_adopted_together_or_not_at_all(two_tables, connection):
    connection.execute(
        "CREATE TABLE carts (cart_id text PRIMARY KEY, client text NOT NULL, state jsonb NOT NULL)"
    )
    result = two_tables.run("rebuild", "carts", "--blue-green")
    assert result.code == 6
    assert "the table public.cart_items does not exist" in result.err
    connection.execute(
        "CREATE TABLE cart_items (cart_id text, product text, quantity integer NOT NULL, PRIMARY "
        "KEY (cart_id, product))"
    )
    two_tables.ok("rebuild", "carts", "--blue-green", "--compare", "none")
    assert connection.execute(
        "SELECT to_regclass('carts__v1') IS NOT NULL, to_regclass('cart_items__v1') IS NOT NULL"
    ).fetchone() == (
        True,
        True,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({'write.insert("carts"': 'write.insert("cart"'}, "Did you mean 'carts'"),
        pytest.param(
            {'"client": event': '"klient": event'},
            "Did you mean 'client'",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {'"client": event.json()["ClientId"]': '"client": None'},
            "null value in column",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {
                '"quantity": data["Quantity"]})\n        lines': '"quantity": "many"})\n       '
                " lines"
            },
            "invalid input syntax",
            marks=pytest.mark.thorough,
        ),
        (
            {
                'write.delete("cart_items", {"cart_id": event.stream})': 'write.delete("cart_items", {})'
            },
            "without a key",
        ),
        (
            {'data["Quantity"]})\n    write.execute': 'data["Menge"]})\n    write.execute'},
            "KeyError: 'Menge'",
        ),
    ],
)
def test_a_handler_that_fails_is_told_with_its_event(two_tables, connection, change, words):
    text = TABLES
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    two_tables.write("carts.py", text)
    config = load_config(two_tables.folder / "esops.toml")
    with pytest.raises(EsopsError) as failed:
        rebuild(config, ["carts"])
    error = failed.value
    assert error.exit_code == 6
    assert words in f"{error.message} {error.hint}"
    assert "cannot project event" in error.message


@pytest.fixture
def program(dsn, project):
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    shop.make(dsn, 600)
    kinds.configure(project, dsn, "process")
    return project


def some_client(connection) -> str:
    return connection.execute(
        "SELECT data ->> 'ClientId' FROM shop.mt_events WHERE seq_id > 20 AND data ? "
        "'ClientId' LIMIT 1"
    ).fetchone()[0]


@pytest.mark.parametrize(
    ("how", "words"),
    [("POISON", "I cannot"), pytest.param("DIE", "ended with code 3", marks=pytest.mark.thorough)],
)
def test_a_poison_event_of_a_program_stops_it_or_is_passed(program, connection, how, words):
    client = program.environment[how] = some_client(connection)
    result = program.run("rebuild", "--blue-green")
    assert result.code == 6, result.err
    assert words in result.err
    assert "cannot project event" in result.err
    text = (program.folder / "esops.toml").read_text()
    program.write(
        "esops.toml", text.replace('kind = "process"', 'kind = "process"\non_error = "dead-letter"')
    )
    # What follows on an opening that was passed finds no row: such carts are left out, too.
    connection.execute("DELETE FROM shop.mt_events WHERE stream_id IN (SELECT stream_id FROM "
        "shop.mt_events WHERE data ->> 'ClientId' = %s) "
                       "AND NOT data ? 'ClientId'", (client,))  # fmt: skip
    done = program.run("rebuild", "--blue-green", "--resume", "--max-dead-letters", "50%")
    assert (done.code, "serves now" in done.out) == (1, True)
    letters = program.ok("projection", "dead-letters", "cart_summary", "--output", "json").json
    assert len(letters) >= 1
    assert all(words in each["error"] for each in letters)
    carts = shop.table(connection, "cart_summary")
    assert carts == {
        name: cart for name, cart in shop.truth(connection, 600).items() if cart[0] != client
    }


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        ("process.stdout.write('hello\\n')", 6, "no JSON"),
        pytest.param(
            (
                "console.log(JSON.stringify({ type: 'ready', protocol: 9 })); setInterval(() => "
                "0, 1000)"
            ),
            6,
            "instead of ready",
            marks=pytest.mark.thorough,
        ),
        ("setInterval(() => 0, 1000)", 3, "has written nothing for 1 s"),
        pytest.param(
            (
                "console.log(JSON.stringify({ type: 'ready', protocol: 1 })); "
                "console.log(JSON.stringify({ type: 'get' })); setInterval(() => 0, 1000)"
            ),
            3,
            "has not read its input for 1 s",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_program_that_does_not_speak_the_protocol(program, code, exit_code, words):
    program.patch("from esops.projections.kinds import program\nprogram._PATIENCE_TO_END = 0.5\n")
    (program.folder / "cart_summary.js").write_text(code)
    text = (program.folder / "esops.toml").read_text().replace("20s", "1s")
    (program.folder / "esops.toml").write_text(text)
    result = program.run("rebuild", "--blue-green")
    assert result.code == exit_code, result.err
    assert words in result.err


def test_a_line_without_an_end_is_an_error_and_not_all_of_memory(program):
    program.patch(
        "from esops.projections.kinds import lines, program\n"
        "lines.MOST_BYTES = program.MOST_BYTES = 1 << 20\nprogram._PATIENCE_TO_END = 0.5\n"
    )
    (program.folder / "cart_summary.js").write_text(
        "const more = () => process.stdout.write('x'.repeat(1 << 16), more); more()"
    )
    result = program.run("rebuild", "--blue-green")
    assert result.code == 6, result.err
    assert "wrote more than 1 MB without a line break" in result.err


def test_a_program_that_is_not_there(program):
    text = (program.folder / "esops.toml").read_text().replace('"node"', '"nonesuch-program"')
    (program.folder / "esops.toml").write_text(text)
    result = program.run("rebuild", "--blue-green")
    assert result.code == 2
    assert "there is no program 'nonesuch-program' in PATH" in result.err


def test_keys_that_do_not_belong_to_a_kind(project, dsn):
    shop.make(dsn, 10)
    for kind, extra, words in (
        ("fold", 'statement = "x.sql"', "a projection of kind 'fold'"),
        ("sql", 'events = ["a"]', "a projection of kind 'sql'"),
        ("sql", 'on_error = "dead-letter"', "cannot skip one of the events"),
        ("process", 'python = "a:b"', "a projection of kind 'process'"),
    ):
        kinds.configure(project, dsn, kind, options=extra)
        result = project.run("rebuild", "--blue-green", "--dry-run")
        assert result.code == 2
        assert words in result.err


def test_handlers_over_a_store_of_another_database(dsn, project, server):
    shop.make(dsn, 300)
    kinds.configure(project, dsn, "handlers", options='readmodel = "far"')
    text = (project.folder / "esops.toml").read_text()
    with database(server) as address:
        project.write("esops.toml", text + f'\n[readmodels.far]\ndsn = "{address}"\n')
        project.ok("rebuild", "--blue-green")
        with psycopg.connect(address) as far, psycopg.connect(dsn) as near:
            assert shop.table(far, "cart_summary") == shop.truth(near, 300)


def test_marten_tenants_and_emmett_positions_in_a_statement(dsn, connection):
    """What stands for :after and :until fits the columns that order the events."""
    from esops.events import NewEvent
    from esops.settings import PostgresSettings
    from esops.stores import open_store
    from tests.support import emmett

    emmett.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in range(5):
            store.append(
                "a-1", [NewEvent(f"00000000-0000-4000-8000-00000000000{number}", "x", b"{}")]
            )
        head = store.head().position
        part = store.sql.range(None, head, 3)
        assert (part.events, part.reached < head) == (3, True)
        table, columns = "public.emt_messages", "(transaction_id, global_position)"
        count = (
            f"SELECT count(*) FROM {table} WHERE {columns} > ({part.after}) AND {columns} <= "
            f"({part.until})"
        )
        assert connection.execute(count).fetchone() == (3,)
        rest = store.sql.range(part.reached, head, 3)
        assert (rest.events, rest.reached) == (2, head)
    assert marten is not None


def test_a_statement_is_told_what_it_should_leave_out(dsn, project):
    shop.make(dsn, 100)
    kinds.configure(project, dsn, "sql")
    noted = project.ok("rebuild", "--blue-green", "--dry-run").out
    assert "does not name is_archived and tombstone" in noted
    assert "type <> 'tombstone' AND is_archived IS NOT TRUE" in noted
    statement = kinds.SQL.replace(
        "GROUP BY", "AND type <> 'tombstone' AND is_archived IS NOT TRUE GROUP BY", 1
    )
    project.write("cart_summary_statement.sql", statement)
    assert "does not name" not in project.ok("rebuild", "--blue-green", "--dry-run").out


def test_a_statement_over_emmett_is_told_how_positions_are_compared(dsn, project, connection):
    emmett.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [NewEvent(str(uuid.uuid4()), "opened", b"{}")])
    project.configure(
        stores={"shop": {"dsn": dsn}},
        projections={
            "counts": {"kind": "sql", "statement": "s.sql", "tables": ["counts"], "ddl": "d.sql"}
        },
    )
    project.write("d.sql", "CREATE TABLE {table} (id text PRIMARY KEY, n int NOT NULL)")
    text = (
        "INSERT INTO {{table}} AS t SELECT stream_id, count(*) FROM emt_messages WHERE {} > {} AND "
        "{} <= {} GROUP BY 1 ON CONFLICT (id) DO UPDATE SET n = t.n + EXCLUDED.n"
    )
    at = "global_position"
    project.write("s.sql", text.format(at, ":after", at, ":until"))
    wrong = project.run("rebuild", "--blue-green")
    assert wrong.code == 2
    shown = wrong.err.rpartition("Write: WHERE ")[2]
    assert shown.count(":after") == shown.count(":until") == 1
    both = shown.partition(" > (:after)")[0]
    project.write("s.sql", text.format(both, "(:after)", both, "(:until)"))
    noted = project.ok("rebuild", "--blue-green")
    assert "does not name is_archived" in noted.err


def test_a_joined_store_is_refused_for_what_it_is(dsn, project):
    shop.make(dsn, 100)
    kinds.configure(project, dsn, "sql")
    text = (project.folder / "esops.toml").read_text()
    joined = text.replace("[stores.shop]", '[stores.shop]\narchive = "cold"', 1)
    project.write("esops.toml", joined + '\n[archives.cold]\nrepository = "cold"\n')
    project.begin_archive("cold")
    refused = project.run("rebuild", "--blue-green")
    assert refused.code == 6
    assert "joined with an archive" in refused.err
