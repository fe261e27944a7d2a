"""The session belongs to esops: what a role, a database or an address sets changes nothing that
esops sees, and where it could, esops refuses.
"""

from __future__ import annotations

import os
from contextlib import closing, contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from esops.errors import Refused, RowSecurity, Unavailable, UnreadableEncoding
from esops.postgres.connection import connect, translated
from esops.postgres.session import READ
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.postgres.bulk import BulkReader
from tests.integration.test_health import findings
from tests.support import marten, shop

HOSTILE = {
    "jit": "on",
    "statement_timeout": "250ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "20ms",
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Tokyo",
    "extra_float_digits": "0",
    "bytea_output": "escape",
    "xmlbinary": "hex",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "quote_all_identifiers": "on",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "gin_fuzzy_search_limit": "1",
    "synchronous_commit": "off",
}
OURS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "datestyle": "ISO, DMY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "default_transaction_isolation": "read committed",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "gin_fuzzy_search_limit": "0",
    "synchronous_commit": "on",
    "row_security": "off",
}
EVIL = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.split_part(varchar, varchar, int) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
CREATE FUNCTION evil.md5(varchar) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION evil.count(text) RETURNS bigint LANGUAGE sql AS $$ SELECT 0::bigint $$;
CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT $2 $$;
CREATE TABLE evil.mt_events (seq_id bigint);
"""
"""What stands before the server's own functions where a path names pg_catalog last."""


@contextmanager
def role(connection, settings: dict[str, str], rights: str = "SUPERUSER"):
    """A role with settings of its own."""
    name = f"guest_{os.getpid()}"
    connection.execute(f"CREATE ROLE {name} LOGIN {rights}")
    try:
        for key, value in settings.items():
            # A list such as a search path must not become one quoted name.
            text = value if key == "search_path" else sql.Literal(value).as_string(None)
            connection.execute(f"ALTER ROLE {name} SET {key} = {text}")
        yield name
    finally:
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def settings_of(connection: psycopg.Connection, names) -> dict[str, str]:
    return {
        name: connection.execute("SELECT current_setting(%s)", (name,)).fetchone()[0]
        for name in names
    }


def test_every_session_has_esops_settings_whatever_the_role_has(dsn, connection):
    with role(connection, HOSTILE) as name:
        guest = make_conninfo(dsn, user=name)
        with psycopg.connect(guest, autocommit=True) as plain:
            assert settings_of(plain, HOSTILE) != settings_of(plain, HOSTILE) | OURS
        with connect(guest, "test") as mine:
            assert settings_of(mine, OURS) == OURS
            assert settings_of(mine, ["jit"]) == {"jit": "on"}, "the user's SQL runs here"
        with connect(guest, "test", READ) as reads:
            assert settings_of(reads, [*OURS, "jit"]) == OURS | {"jit": "off"}
        with connect(guest, "test") as mine:
            assert settings_of(mine, ["default_transaction_read_only"]) == {
                "default_transaction_read_only": "off"
            }
            # Longer than the role allows.
            mine.execute("SELECT pg_sleep(0.3)")
        with closing(BulkReader(guest)) as bulk:
            listed = ", ".join(f"current_setting('{name}')" for name in OURS)
            statements = [f"SELECT ARRAY[{listed}]", "SELECT pg_sleep(0.3)::text"]
            first, _ = [batch for batch in bulk.read(iter(statements)) if batch.num_rows]
            assert dict(zip(OURS, first.column(0)[0].as_py(), strict=True)) == OURS


def test_a_search_path_puts_nothing_before_the_servers_functions(dsn, connection):
    connection.execute(EVIL)
    with role(connection, {"search_path": '"$user", evil, public, pg_catalog'}) as name:
        guest = make_conninfo(dsn, user=name)
        with connect(guest, "test") as works, connect(guest, "test", READ) as reads:
            path = "SELECT current_setting('search_path'), current_schema()"
            assert works.execute(path).fetchone() == ('"$user", evil, public', "evil")
            assert reads.execute(path).fetchone() == ("", None)
            assert reads.execute("SELECT md5('a'::varchar) = 'x'").fetchone() == (False,)
            # A path in the middle of a list, and one that is only pg_catalog.
            works.execute(f"ALTER ROLE {name} SET search_path = pg_catalog, evil")
        with connect(guest, "test") as works:
            assert works.execute("SELECT current_schema()").fetchone() == ("evil",)
            works.execute(f"ALTER ROLE {name} SET search_path = pg_catalog")
        with connect(guest, "test") as works:
            assert works.execute("SELECT current_schema()").fetchone() == (None,)


FLOATS = """
from esops import fold

@fold(key="stream")
def cart_summary(row, event):
    return {{"cart_id": event.stream, "total": {total}}}
"""
FLOAT_DDL = "CREATE TABLE {table} (cart_id text PRIMARY KEY, total float8 NOT NULL);"


def test_a_whole_life_under_a_hostile_role(project, dsn, connection):
    """A rebuild that compares, follows and is verified: 0.3 is not 0.1 + 0.2."""
    shop.make(dsn, events=300)
    connection.execute(EVIL)
    hostile = {**HOSTILE, "search_path": "evil, public, pg_catalog"}
    with role(connection, hostile) as name:
        guest = make_conninfo(dsn, user=name)
        shop.configure(project, guest, code=FLOATS.format(total="0.3"), ddl=FLOAT_DDL)
        first = project.ok("rebuild", "cart_summary", "--blue-green", "--output", "json").json
        assert first["events"] == 300
        again = project.ok("rebuild", "cart_summary", "--blue-green", "--output", "json").json
        assert again["verification"]["differing"] == 0
        assert again["verification"]["rows_green"] == first["rows"]
        assert len(project.ok("events", "--output", "ndjson").out.splitlines()) == 300
        shop.more(dsn, 20)
        project.ok("run", "--until-caught-up")
        assert project.ok("audit", "streams", "--output", "json").json["summary"]["events"] == 320
        shop.configure(project, guest, code=FLOATS.format(total="0.1 + 0.2"), ddl=FLOAT_DDL)
        changed = project.run("rebuild", "cart_summary", "--blue-green", "--output", "json")
        assert changed.code != 0
        assert changed.json["verification"]["differing"] == changed.json["rows"]


def test_what_only_a_superuser_may_set_is_refused(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with role(connection, {"session_replication_role": "replica"}) as name:
        shop.configure(project, make_conninfo(dsn, user=name))
        with pytest.raises(Refused, match="session_replication_role"):
            connect(make_conninfo(dsn, user=name), "test")
        assert "ESOPS-D046" in findings(project)


# -- row security


def test_row_security_never_makes_a_part_of_the_whole(project, dsn, connection):
    shop.make(dsn, events=50)
    connection.execute("""
        ALTER TABLE shop.mt_events ENABLE ROW LEVEL SECURITY;
        CREATE POLICY hidden ON shop.mt_events USING (seq_id < 10);
        CREATE TABLE cart_summary (cart_id text PRIMARY KEY, n int);
        ALTER TABLE cart_summary ENABLE ROW LEVEL SECURITY;
    """)
    with role(connection, {}, rights="") as name:
        connection.execute(f"""
            GRANT USAGE ON SCHEMA shop TO {name};
            GRANT SELECT ON ALL TABLES IN SCHEMA shop TO {name};
            GRANT SELECT ON ALL SEQUENCES IN SCHEMA shop TO {name};
            GRANT SELECT ON cart_summary TO {name};
            GRANT CREATE, USAGE ON SCHEMA public TO {name};
            GRANT pg_read_all_stats TO {name};
        """)
        guest = make_conninfo(dsn, user=name)
        shop.configure(project, guest)
        for command in (("events",), ("audit", "streams"), ("status",)):
            result = project.run(*command)
            assert result.code in ((6,) if command != ("status",) else (1, 6)), result
            assert "row security" in result.out + result.err
        found = project.run("doctor", "--output", "json").json["findings"]
        mine = [each for each in found if each["code"] == "ESOPS-D043"]
        assert {each["subject"] for each in mine} == {"store shop", "projection cart_summary"}
        assert f'ALTER ROLE "{name}" BYPASSRLS;' in mine[0]["fix"]
        # The bulk reader's own connection says the same.
        with (
            closing(BulkReader(guest)) as bulk,
            pytest.raises(RowSecurity, match="mt_events"),
        ):
            list(bulk.read(iter(["SELECT * FROM shop.mt_events"])))
        connection.execute(f"ALTER ROLE {name} BYPASSRLS")
        assert len(project.ok("events", "--output", "ndjson").out.splitlines()) == 50
        found = project.run("doctor", "--output", "json").json["findings"]
        assert "ESOPS-D043" not in {each["code"] for each in found}
        # The owner sees all of it, unless FORCE says otherwise.
        connection.execute(f"ALTER ROLE {name} NOBYPASSRLS; GRANT postgres TO {name}")
        project.ok("events")
        connection.execute("ALTER TABLE shop.mt_events FORCE ROW LEVEL SECURITY")
        assert project.run("events").code == 6


# -- encodings


@contextmanager
def encoded(server, encoding: str):
    """A database in an encoding, and a store with a stream whose name needs it."""
    name = f"test_{encoding.lower()}_{os.getpid()}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    try:
        yield server.dsn(name)
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("encoding", "stream"),
    [pytest.param("LATIN1", "Cart-Zoë", marks=pytest.mark.thorough), ("EUC_JP", "注文-1")],
)
def test_databases_that_are_not_utf8_are_read_and_written(project, server, encoding, stream):
    with encoded(server, encoding) as dsn:
        with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as connection:
            marten.create(connection, marten.Variant(schema="shop", text_ids=True))
            connection.execute(
                "INSERT INTO shop.mt_streams (id, version) VALUES (%s, 1)", (stream,)
            )
            connection.execute(
                "INSERT INTO shop.mt_events (seq_id, id, stream_id, version, data, type) VALUES "
                "(nextval('shop.mt_events_sequence'), gen_random_uuid(), %s, 1, %s, 'opened')",
                (stream, f'{{"who": "{stream}"}}'),
            )
        code = (
            "from esops import fold\n\n@fold(key='stream')\ndef cart_summary(row, event):\n"
            "    return {'cart_id': event.stream, 'who': event.json()['who']}\n"
        )
        ddl = "CREATE TABLE {table} (cart_id text PRIMARY KEY, who text);"
        shop.configure(project, dsn, code=code, ddl=ddl)
        for filter in (("--stream", stream), ("--category", stream.partition("-")[0])):
            result = project.ok("events", *filter, "--output", "ndjson")
            assert f'"stream":"{stream}"' in result.out.replace(": ", ":")
        project.ok("rebuild", "cart_summary", "--blue-green")
        project.ok("rebuild", "cart_summary", "--blue-green")
        with psycopg.connect(dsn, client_encoding="UTF8") as connection:
            rows = connection.execute("SELECT cart_id, who FROM cart_summary").fetchall()
        assert rows == [(stream, stream)]
        # A name that this database cannot hold is no empty answer.
        assert project.run("events", "--stream", "Cart-\N{SNOWMAN}").code == 2


def test_sql_ascii_is_refused(project, server):
    with encoded(server, "SQL_ASCII") as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            marten.create(connection, marten.Variant(schema="shop", text_ids=True))
        shop.configure(project, dsn)
        assert project.run("events").code == 6
        assert "ESOPS-D045" in findings(project)
        with translated(), pytest.raises(UnreadableEncoding):
            open_store("shop", PostgresSettings(dsn=dsn))


# -- secrets


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ann:p@ss%s3cr3tM4rk@localhost/shop",
        "postgresql://ann:s3cr3t/M4rk s3cr3tM4rk@localhost/shop",
        "ann:s3cr3tM4rk@localhost/shop",
        "host=/nonexistent user=ann password=p s3cr3tM4rk",
        "host=/nonexistent;user=ann;password=s3cr3tM4rk",
    ],
)
def test_a_secret_in_an_unreadable_address_is_nowhere(project, address):
    shop.configure(project, address)
    for command in (("events",), ("doctor",), ("run", "--until-caught-up")):
        process = project.start(*command, "--debug", "--log-format", "json")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "s3cr3tM4rk" not in out + err
        assert "stores.shop.dsn" in err


def test_a_right_that_a_trigger_lacks_is_reported_with_its_function(connection):
    connection.execute("""
        CREATE TABLE cart (id int); CREATE TABLE log (id int); CREATE ROLE writer;
        CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN INSERT INTO public.log VALUES (NEW.id); RETURN NEW; END $$;
        CREATE TRIGGER noted BEFORE INSERT ON cart FOR EACH ROW EXECUTE FUNCTION note_it();
        GRANT ALL ON cart TO writer; SET ROLE writer""")
    try:
        with pytest.raises(Unavailable, match="denies this role a right") as denied, translated():
            connection.execute("INSERT INTO cart VALUES (4711)")
    finally:
        connection.execute("RESET ROLE; DROP OWNED BY writer; DROP ROLE writer")
    assert "table log, in PL/pgSQL function" in denied.value.message
    assert "note_it() line 1" in denied.value.message
    assert "INSERT" not in denied.value.message


def test_a_limit_of_the_server_is_named_with_what_raises_it(connection):
    """A statement that sorts more than the role's temporary files may hold; and what says that
    another thing is used up.
    """
    connection.execute("SET temp_file_limit = '64kB'; SET work_mem = '64kB'")
    with pytest.raises(Unavailable) as files, translated():
        connection.execute("SELECT md5(n::text) FROM generate_series(1, 9999) n ORDER BY 1")
    assert "SET temp_file_limit" in files.value.hint
    for state, words in (("53100", "disk"), ("53200", "work_mem")):
        with pytest.raises(Unavailable) as found, translated():
            connection.execute(
                f"DO $$ BEGIN RAISE EXCEPTION 'nothing is left' USING ERRCODE = '{state}'; END $$"
            )
        assert "nothing is left" in found.value.message
        assert words in found.value.hint
