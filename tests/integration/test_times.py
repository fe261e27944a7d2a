"""Events whose times no datetime can hold: ±infinity (Npgsql's MinValue and MaxValue), BC, beyond
9999, and the last microsecond that one can. No command stops at them, and an archive gives them
back as they were.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from esops.events import EventFilter, Position
from esops.health.lag import seconds_behind
from esops.moments import FarTime, TimeOutOfRange
from esops.postgres.connection import connect
from esops.settings import PostgresSettings, TableSettings
from esops.stores import open_store
from esops.stores.counting import CountedLengths
from tests.support.cases import thorough_but
from tests.support.layout_kits import create, layout_kit

TIMES = [
    "1970-01-01 00:00:00+00",
    "infinity",
    "-infinity",
    "0044-03-15 12:00:00+00 BC",
    "0001-01-01 00:00:00+00",
    "9999-12-31 23:59:59.999999+00",
    "10000-01-01 00:00:00.5+00",
    "294276-12-31 23:59:59.999999+00",
    "4714-11-24 00:00:00+00 BC",
    "2026-11-27 07:30:00.123456+00",
]
TABLES = {
    "marten-text": ("mt_events", "timestamp", "version", 1),
    "emmett": ("emt_messages", "created", "stream_position", 1),
    "messagedb": ("message_store.messages", "time", "position", 0),
}
COLUMNS = {
    "stream": "book",
    "version": "line",
    "position": "n",
    "type": "kind",
    "data": "body",
    "time": "at",
}
FAR = [text for text in TIMES if text[:4] not in {"1970", "0001", "9999", "2026"}]


KEPT = (*TABLES, "custom")


@pytest.fixture
def kept(request, dsn, connection, project):
    """A store with a stream of all those times, and one of a single old event; its settings in
    esops.toml."""
    if request.param == "custom":
        connection.execute(
            "CREATE DOMAIN moment AS timestamptz; CREATE TABLE ledger (n bigserial PRIMARY KEY, "
            "book text, line int, kind text, body json, at moment)"
        )
        for stream, times in (("far-1", TIMES), ("old-1", ["2001-01-01 00:00:00+00"])):
            for line, at in enumerate(times, 1):
                connection.execute(
                    "INSERT INTO ledger (book, line, kind, body, at) VALUES (%s, %s, 'k', '{}', %s)",
                    (stream, line, at),
                )
        table = {"name": "public.ledger", **COLUMNS}
        settings = {"dsn": dsn, "append": "quick", "table": table}
    else:
        table, column, version, first = TABLES[request.param]
        create(request.param, connection)
        for kit in layout_kit(request.param, dsn, connection):
            kit.store.append("far-1", kit.events(*["k"] * len(TIMES)))
            kit.store.append("old-1", kit.events("k"))
        for number, at in enumerate(TIMES, first):
            connection.execute(
                f"UPDATE {table} SET {column} = %s WHERE {version} = {number}"
                f" AND {'stream_name' if 'message_store' in table else 'stream_id'} = 'far-1'",
                (at,),
            )
        connection.execute(
            f"UPDATE {table} SET {column} = '2001-01-01' WHERE "
            f"{'stream_name' if 'message_store' in table else 'stream_id'} = 'old-1'"
        )
        if table == "mt_events":  # it was appended to then, by the list of streams as well
            connection.execute("UPDATE mt_streams SET timestamp = '2001-01-01'")
        settings = {"dsn": dsn}
    project.configure(
        stores={"s": settings, "cold": {"backend": "archive", "archive": "cold"}},
        archives={
            "cold": {
                "repository": "cold",
                "policies": {
                    "idle": {"store": "s", "stream": "*", "idle_for": "30d"},
                    "all": {"store": "s", "stream": "*", "never_younger_than": "0s"},
                },
            }
        },
        audit={"budgets": {"*": {"growth_per_day": 1000}}},
    )
    return request.param


def shown(at: str | None) -> str | None:
    """A time of JSON as Postgres prints it."""
    if at is None or not at.endswith("Z"):
        return at
    return at.replace("T", " ").replace("Z", "+00").replace("000+00", "+00")


@pytest.mark.thorough
@pytest.mark.parametrize("kept", thorough_but(KEPT, "marten-text"), indirect=True)
def test_no_command_stops(kept, project, dsn, connection):
    lines = project.ok("events", "--store", "s", "--stream", "far-1").out.splitlines()
    assert [shown(json.loads(line)["recorded_at"]) for line in lines] == TIMES
    for form in ("table", "csv"):
        text = project.ok("events", "--store", "s", "--output", form).out
        assert all(at in text for at in FAR), text
    found = project.ok("audit", "streams", "--store", "s", "--growth", "--output", "json").json
    ends = {each["stream"]: (each["first_at"], each["last_at"]) for each in found["streams"]}
    assert ends["far-1"] == ("-infinity", "infinity")
    assert [each["growth_per_day"] for each in found["streams"]] == [None, 1.0]
    project.ok("audit", "streams", "--store", "s", "--growth", "--percentiles")
    project.ok("audit", "streams", "--store", "s", "--report", "report.html")
    about = project.ok("audit", "stream", "far-1", "--store", "s", "--output", "json").json
    assert (about["length"], about["first_at"]) == (len(TIMES), "1970-01-01T00:00:00Z")
    assert project.ok("audit", "stream", "far-1", "--store", "s").out
    kinds = project.ok("audit", "events", "--store", "s", "--output", "json").json["types"]
    assert (kinds[0]["first_at"], kinds[0]["last_at"]) == ("-infinity", "infinity")
    for form in ("tree", "timeline", "json", "mermaid", "dot", "html", "otlp"):
        text = project.ok(
            "trace", "stream", "far-1", "--store", "s", "--scan", "--format", form
        ).out
        if form in {"tree", "json", "html"}:
            assert all(at in text for at in FAR), form
    project.ok("trace", "stream", "far-1", "--store", "s", "--scan", "--around", "1h")
    assert project.run("status", "--store", "s").code == 0
    with open_store_of(project) as store:
        events = list(store.read_stream("far-1"))
        assert [str(event.moment) for event in events if event.type == "k"][1:3] == FAR[:2]
        assert events[0].recorded_at == datetime(1970, 1, 1, tzinfo=UTC)
        assert isinstance(events[1].moment, FarTime)
        with pytest.raises(TimeOutOfRange, match="infinity"):
            _ = events[1].recorded_at
        assert [str(each.last_at)[:8] for each in store.streams(EventFilter())] == [
            "infinity",
            "2001-01-",
        ]


def open_store_of(project):
    from esops.config import load_config

    config = load_config(project.folder / "esops.toml")
    return open_store(*config.store("s"))


@pytest.mark.parametrize("kept", thorough_but(KEPT, "emmett", "custom"), indirect=True)
def test_an_archive_keeps_them_exactly(kept, project, dsn, connection):
    planned = project.ok("archive", "plan", "idle", "--output", "json").json
    # How long the other stream has been idle, nobody knows: its last event may be the one at infinity.
    assert (planned["streams"], planned["age_unknown"]) == (1, 1)
    assert "1 stream is left out" in project.ok("archive", "plan", "idle").out
    project.ok("archive", "plan", "all")
    project.ok("archive", "run", "all")
    run = project.ok("archive", "list", "--output", "json").json[0]
    assert (run["first_at"], run["last_at"]) == (
        "1970-01-01T00:00:00Z",
        "2026-11-27T07:30:00.123456Z",
    )
    project.ok("archive", "verify", "--against-store")
    assert project.ok("archive", "show", run["run"]).out
    lines = project.ok("events", "--store", "cold", "--stream", "far-1").out.splitlines()
    assert [shown(json.loads(line)["recorded_at"]) for line in lines] == TIMES
    found = project.ok("audit", "streams", "--store", "cold", "--output", "json").json["streams"]
    assert (found[0]["first_at"], found[0]["last_at"]) == ("-infinity", "infinity")
    asked = "SELECT recorded_at FROM events WHERE stream = 'far-1' ORDER BY version"
    rows = project.ok("archive", "query", asked, "--output", "json").json
    got = [shown(row["recorded_at"]) for row in rows]
    # DuckDB has no year 294276: the file says how to read it.
    assert got[:7] + got[8:] == TIMES[:7] + TIMES[8:]
    if kept == "custom":
        return
    table, *_ = TABLES[kept]
    before = connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall()
    connection.execute(f"DELETE FROM {table}")
    project.ok("archive", "restore", run["run"], "--yes")
    assert connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall() == before


@pytest.mark.parametrize("kept", thorough_but(KEPT, "custom"), indirect=True)
def test_projections_say_what_they_cannot_take(kept, project, dsn, connection):
    project.write("p.py", CODE)
    project.begin_archive("cold")
    text = project.folder.joinpath("esops.toml").read_text()
    for name, columns in (
        ("strict", "at timestamptz"),
        ("lenient", "at timestamptz, text text"),
        ("last", "at timestamptz, events int"),
    ):
        text += f'\n[projections.{name}]\nstore = "s"\npython = "p:{name}"\ntables = ["{name}"]\nddl = "{name}.sql"\n'
        project.write(f"{name}.sql", f"CREATE TABLE {{table}} (id text PRIMARY KEY, {columns})")
    project.write("esops.toml", text)
    failed = project.run("rebuild", "strict", "--blue-green")
    assert failed.code == 6
    assert "far-1" in failed.err
    assert "infinity, which no datetime can hold" in failed.err
    project.ok("rebuild", "lenient", "--blue-green")
    project.ok("rebuild", "last", "--blue-green")
    rows = connection.execute("SELECT at::text, text FROM lenient ORDER BY id").fetchall()
    assert [at for at, _ in rows] == [*TIMES, "2001-01-01 00:00:00+00"]
    # A fold that reads its rows again gets those times back, and a rebuild compares them.
    if kept == "custom":
        connection.execute(
            "INSERT INTO ledger (book, line, kind, body, at) VALUES ('far-1', 11, 'k', '{}', '2026-01-01')"
        )
        project.ok("run", "last", "--until-caught-up")
        latest = connection.execute(
            "SELECT at::text, events FROM last WHERE id = 'far-1'"
        ).fetchone()
        assert latest == ("infinity", len(TIMES) + 1)
    again = project.ok("rebuild", "lenient", "--blue-green", "--output", "json").json
    assert again["verification"]["differing"] == 0


CODE = """
from esops import fold

@fold(key="stream")
def strict(row, event):
    return {"id": event.stream, "at": event.recorded_at}

@fold(key=lambda event: f"{event.stream}/{event.version:02}")
def lenient(row, event):
    return {"id": f"{event.stream}/{event.version:02}", "at": event.moment, "text": str(event.moment)}

@fold(key="stream")
def last(row, event):
    row = row or {"at": event.moment, "events": 0}
    return {"id": event.stream, "at": max(row["at"], event.moment), "events": row["events"] + 1}
"""


def test_rows_with_such_values_are_read_and_written(dsn, connection):
    odd = {
        "timestamptz": [*TIMES, None],
        "timestamp": ["infinity", "0044-03-15 12:00:00 BC", "2026-01-01 00:00:00"],
        "date": ["-infinity", "0044-03-15 BC", "12345-06-07", "2026-01-01"],
        "time": ["24:00:00", "12:00:00"],
        "interval": ["infinity", "1 day"],
    }
    with connect(dsn, "test") as ours:
        for kind, values in odd.items():
            ours.execute(f"CREATE TABLE v_{kind} (n int PRIMARY KEY, at {kind})")
            for n, value in enumerate(values):
                ours.execute(f"INSERT INTO v_{kind} VALUES (%s, %s)", (n, value))
            rows = ours.execute(f"SELECT n, at FROM v_{kind}").fetchall()
            ours.execute(f"CREATE TABLE w_{kind} (LIKE v_{kind})")
            with ours.cursor() as cursor, cursor.copy(f"COPY w_{kind} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            for row in rows:
                again = ours.execute(f"SELECT at FROM v_{kind} WHERE at = %s", row[1:]).fetchone()
                assert again is None or again == row[1:]
            difference = f"(TABLE v_{kind} EXCEPT TABLE w_{kind})"
            assert ours.execute(difference).fetchall() == [], kind


def test_a_lag_is_the_age_of_an_event_of_1970_and_unknown_for_one_at_infinity(dsn, connection):
    connection.execute(
        "CREATE TABLE ledger (n bigserial PRIMARY KEY, book text, line int, kind text, body json, "
        "at timestamptz); INSERT INTO ledger (book, line, kind, body, at) VALUES "
        "('a', 1, 'k', '{}', '1970-06-01'), ('a', 2, 'k', '{}', 'infinity'), "
        "('a', 3, 'k', '{}', NULL)"
    )
    settings = PostgresSettings(
        dsn=dsn, append="quick", table=TableSettings(name="public.ledger", **COLUMNS)
    )
    with open_store("s", settings) as store:
        head = store.head()
        lags = [
            seconds_behind(store, after, head) for after in (None, Position((1,)), Position((2,)))
        ]
        assert lags[0] is not None
        assert lags[0] > 50 * 365 * 86_400
        assert lags[1:] == [None, None]
        assert [month.month for month in store.lengths.monthly()] == ["1970-06"]
        assert [month.month for month in CountedLengths(store).monthly()] == ["1970-06"]
