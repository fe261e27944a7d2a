"""Where things may be: read model and store apart, a role with few rights, a replica; and what is
left out.
"""

from __future__ import annotations

import json
import time

import psycopg
import pytest

from esops.cli.completion import MOST_NAMES
from esops.errors import Refused
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.postgres.reading import PAGE, PageSize
from tests.support import shop
from tests.support.project import Project
from tests.support.waiting import DEADLINE


@pytest.mark.thorough
def test_the_read_model_may_be_in_another_database(dsn, server, project):
    shop.make(dsn, 3_000)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE elsewhere")
    try:
        shop.configure(project, dsn)
        config = (project.folder / "esops.toml").read_text()
        (project.folder / "esops.toml").write_text(
            config
            + f'[readmodels.main]\ndsn = {json.dumps(server.dsn("elsewhere"))}\nschema = "pages"\n'
        )
        with psycopg.connect(server.dsn("elsewhere"), autocommit=True) as there:
            there.execute("CREATE SCHEMA pages")
            for version in (1, 2):
                assert (
                    project.ok("rebuild", "--blue-green", "--output", "json").json["to_version"]
                    == version
                )
            found = shop.table(there, "pages.cart_summary")
        with psycopg.connect(dsn, autocommit=True) as here:
            assert found == shop.truth(here, 3_000)
            # Only what is noted of the store's own numbers.
            kept = here.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'esops'")
            assert {row[0] for row in kept} == {"late_events", "passed", "sightings"}
        project.ok("projection", "rollback", "cart_summary")
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("DROP DATABASE elsewhere WITH (FORCE)")


def test_a_name_without_a_schema_never_means_the_schema_of_esops(dsn, connection, project):
    # The path of a role named esops, before the first rebuild has made that schema.
    shop.make(dsn, 100)
    shop.configure(project, psycopg.conninfo.make_conninfo(dsn, options="-c search_path=esops"))
    for command in (
        ["rebuild", "--blue-green"],
        ["plan"],
        ["run", "--until-caught-up"],
        ["doctor", "--grants", "operator"],
    ):
        done = project.run(*command)
        assert done.code == 2, command
        assert "cart_summary has no schema" in done.out + done.err
        assert "public.cart_summary" in done.out + done.err
    assert "has no schema" in project.run("doctor").out
    assert not connection.execute("SELECT to_regnamespace('esops')").fetchone()[0]
    config = project.folder / "esops.toml"
    named = config.read_text().replace('["cart_summary"]', '["public.cart_summary"]')
    config.write_text(named)
    for _ in range(2):
        project.ok("rebuild", "--blue-green")
    assert shop.table(connection, "public.cart_summary") == shop.truth(connection, 100)


def test_a_role_with_the_documented_rights_can_do_all_of_it(dsn, connection, project):
    shop.make(dsn, 1_000)
    database = connection.info.dbname
    connection.execute(f"""
        CREATE ROLE shop_owner LOGIN; CREATE ROLE operator LOGIN;
        GRANT CREATE ON DATABASE {database} TO operator; GRANT CREATE, USAGE ON SCHEMA public TO
        operator, shop_owner;
        GRANT USAGE ON SCHEMA shop TO operator; GRANT SELECT ON ALL TABLES IN SCHEMA shop TO
        operator;
        GRANT SELECT ON SEQUENCE shop.mt_events_sequence TO operator; GRANT shop_owner TO operator;
        SET ROLE shop_owner;
    """)
    connection.execute(shop.DDL.replace("{table}", "cart_summary").encode())
    connection.execute("RESET ROLE")
    shop.configure(project, psycopg.conninfo.make_conninfo(dsn, user="operator"))
    try:
        project.ok("events", "--limit", "1")
        project.ok("rebuild", "--blue-green", "--max-diff", "100")
        project.ok("rebuild", "--blue-green")
        project.ok("run", "--until-caught-up")
        project.ok("projection", "rollback", "cart_summary")
        project.ok("projection", "switch", "cart_summary", "--to", "3")
        project.ok("projection", "retire", "cart_summary", "--yes")
        owners = connection.execute(
            "SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relname LIKE "
            "'cart_summary%' AND relkind IN ('r', 'v') ORDER BY 1"
        )
        assert owners.fetchall() == [
            ("cart_summary", "shop_owner"),
            ("cart_summary__v3", "shop_owner"),
        ]
        shop.check_version(connection, 3)
        for lost, command in (
            ("REVOKE SELECT ON SEQUENCE shop.mt_events_sequence FROM operator", ["events"]),
            ("REVOKE SELECT ON shop.mt_events FROM operator", ["rebuild", "--blue-green"]),
        ):
            connection.execute(lost)
            result = project.run(*command)
            assert (
                result.code,
                "denies this role a right: permission denied for" in result.err,
            ) == (3, True)
    finally:
        connection.execute(
            "DROP OWNED BY operator; DROP OWNED BY shop_owner; DROP ROLE operator; DROP ROLE "
            "shop_owner"
        )


def test_a_projection_of_some_events_has_the_checkpoint_of_all(dsn, connection, project):
    shop.make(dsn, 2_000)
    code = (
        "from esops import fold\n@fold()\ndef cart_summary(row, event):\n    return {'n': (row "
        "or {'n': 0})['n'] + 1, 'kinds': event.type}\n"
    )
    shop.configure(
        project,
        dsn,
        code=code,
        ddl="CREATE TABLE {table} (id text PRIMARY KEY, n int, kinds text);",
        projection_options='events = ["shopping_cart_opened", "shopping_cart_canceled"]',
    )
    done = project.ok("rebuild", "--blue-green", "--output", "json").json
    expected = connection.execute(
        "SELECT count(*) FROM shop.mt_events WHERE type IN ('shopping_cart_opened', "
        "'shopping_cart_canceled')"
    ).fetchone()[0]
    assert (done["events"], done["rows"], done["position"]) == (expected, 200, "2000")
    assert connection.execute("SELECT sum(n)::int FROM cart_summary").fetchone() == (expected,)


@pytest.mark.slow
def test_a_replica_is_refused(own_server):
    shop.make(own_server.dsn(), 100)
    own_server.stop()
    (own_server.folder / "standby.signal").touch()
    own_server.restart()
    with pytest.raises(Refused, match="is a replica"):
        open_store("s", PostgresSettings(dsn=own_server.dsn()))


def test_pages_get_smaller_for_a_slow_reader_and_larger_again(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    page = PageSize()
    page.begin()
    for _ in range(4):
        now[0] += 0.1
        page.begin()
    assert page.size == PAGE
    now[0] += 20
    assert page.begin() == PAGE // 10
    now[0] += 200_000
    assert page.begin() == 1_000
    for _ in range(10):
        now[0] += 0.1
        page.begin()
    assert page.size == PAGE


def completed(project, words: str) -> list[str]:
    """What the shell offers where a line ends."""
    environment = {
        **project.environment,
        "_ESOPS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = Project(project.folder, environment, project.warm).run()
    assert done.err == ""
    return done.out.split()


@pytest.mark.thorough
@pytest.mark.installed
def test_names_are_completed(dsn, project):
    shop.configure(project, dsn)
    assert completed(project, "esops rebuild ca") == ["cart_summary"]
    assert completed(project, "esops events --store s") == ["shop"]


def test_names_of_runs_and_streams_are_completed(dsn, project):
    shop.make(dsn, 800)
    # A busy machine takes longer to import what opens a store.
    project.patch(f"import esops.cli.completion as c\nc.TIME_LIMIT_SECONDS = {DEADLINE}\n")
    project.write(
        "esops.toml",
        f"[stores.shop]\ndsn = {json.dumps(dsn)}\n[archives.cold]\nrepository = 'cold'\n"
        "[archives.cold.policies.old]\nstore = 'shop'\ncategory = 'cart'\nidle_for = '0s'\n"
        "remove = 'keep'\n[stores.gone]\ndsn = 'host=127.0.0.1 port=1'\n",
    )
    with open_store("shop", PostgresSettings(dsn=dsn)) as store:
        names = sorted(info.name for info in store.streams())
    assert len(names) > MOST_NAMES
    for words in ("esops events --store shop --stream ", "esops trace stream "):
        offered = completed(project, words)
        assert len(offered) == MOST_NAMES
        assert set(offered) < set(names)
    begin = names[7][:-1]
    assert sorted(completed(project, f"esops audit stream {begin}")) == [
        name for name in names if name.startswith(begin)
    ]
    assert completed(project, "esops events --store shop --stream nobody-") == []
    assert completed(project, "esops events --store gone --stream ") == []

    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    assert completed(project, f"esops archive show {run[:4]}") == [run]
    assert completed(project, f"esops archive restore {run} {names[7]}") == [names[7]]
    assert completed(project, "esops archive show x") == []


def test_completion_gives_what_came_in_time(dsn, project):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    # The third stream takes for ever, as in a store that is busy.
    project.patch(
        "import time\n"
        "import esops.cli.completion as c\n"
        "c.TIME_LIMIT_SECONDS = 10\n"
        "whole = c._streams_of\n"
        "def slow(store, incomplete):\n"
        "    for number, name in enumerate(whole(store, incomplete)):\n"
        "        if number == 2:\n"
        "            c.signal.setitimer(c.signal.ITIMER_REAL, 0.1)\n"
        "            time.sleep(600)\n"
        "        yield name\n"
        "c._streams_of = slow\n"
    )
    assert len(completed(project, "esops events --stream ")) == 2
