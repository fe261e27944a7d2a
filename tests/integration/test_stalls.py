"""What has not advanced for a minute while events wait is found by one look, with the reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import psycopg
import pytest

from esops.config import load_config
from esops.demo import store as shop_store
from esops.events import Checkpoint, Position, RecordedEvent
from esops.health import stalls
from esops.health.lag import Lag, seconds_behind
from esops.stores.base import Batch, Head
from tests.support import emmett, shop
from tests.support.waiting import end, heard

OLD = "UPDATE esops.versions SET updated_at = now() - interval '5 minutes'"


@pytest.fixture
def carts(dsn, connection, project):
    shop.make(dsn, 60)
    shop.configure(project, dsn, store_options='append = "quick"\nsettle_timeout = "300ms"')
    project.ok("rebuild", "--blue-green")
    return project


def found(project) -> list[stalls.Stall]:
    config = load_config(project.folder / "esops.toml")
    return [stall for _, stall in stalls.of_versions(config, list(config.projections))]


def waiting_events(dsn, connection) -> None:
    """Events that were appended ten minutes ago, behind checkpoints that moved before that."""
    shop.more(dsn, 20)
    connection.execute("UPDATE shop.mt_events SET timestamp = now() - interval '10 minutes'")
    connection.execute(OLD)


@pytest.mark.thorough
def test_a_version_that_nobody_follows_while_events_wait(carts, dsn, connection):
    connection.execute(OLD)
    assert found(carts) == []  # nothing waits
    assert carts.run("status", "--output", "json").code == 0
    waiting_events(dsn, connection)
    result = carts.run("status", "--output", "json")
    assert result.code == 1
    (version,) = result.json["projections"]
    assert 290 < version["stalled"]["seconds"] < 400
    assert "no process follows it" in version["stalled"]["reasons"][0]
    assert "cart_summary v1 has not advanced for" in carts.run("status").out
    text = carts.ok("metrics").out
    line = 'esops_stalled{processor="",projection="cart_summary",store="shop",version="1"} '
    assert float(text.partition(line)[2].split()[0]) > 290
    codes = {each["code"] for each in doctor(carts)}
    assert "ESOPS-D022" in codes  # which says it already
    assert "ESOPS-D088" not in codes
    connection.execute("UPDATE esops.versions SET updated_at = now()")
    assert found(carts) == []  # it has just moved: it catches up
    # What its filter does not pass is nothing to wait for.
    connection.execute(OLD)
    options = 'events = ["nothing_of_that_type"]'
    shop.configure(carts, dsn, projection_options=options)
    assert found(carts) == []


def doctor(project) -> list[dict]:
    return project.run("doctor", "--output", "json").json["findings"]


@pytest.mark.thorough
def test_run_says_who_keeps_its_version_from_advancing(carts, dsn, connection):
    carts.patch(
        "import esops.running.host as host\n"
        "from datetime import timedelta\n"
        "host._CHORE_EVERY = timedelta(seconds=0.3)\n"
    )
    (name,) = connection.execute("SELECT tables->'cart_summary'->>1 FROM esops.versions").fetchone()
    process = carts.start("run")
    heard(process, "following")
    with psycopg.connect(dsn, application_name="migration") as other:
        other.execute(f'LOCK TABLE "{name}" IN ACCESS EXCLUSIVE MODE')
        waiting_events(dsn, connection)
        said = heard(process, "has not advanced for")
        assert f"waits for a lock of session {other.info.backend_pid} (migration" in said
        (finding,) = [each for each in doctor(carts) if each["code"] == "ESOPS-D088"]
        assert "v1 (active) has not advanced for" in finding["message"]
        # Nobody who asks what is wrong waits for that lock.
        (version,) = carts.run("status", "--output", "json").json["projections"]
        assert "(migration" in version["stalled"]["reasons"][0]
    heard(process, "it advances again")
    assert "stopped by a signal" in end(process)[1]


def test_a_transaction_that_holds_the_head_back_is_the_reason(carts, dsn, connection):
    with psycopg.connect(dsn, application_name="importer") as writer:
        (held,) = writer.execute("SELECT nextval('shop.mt_events_sequence')").fetchone()
        shop_store.generate(connection, 20, after=held, first_cart=held)
        connection.execute("UPDATE shop.mt_events SET timestamp = now() - interval '10 minutes'")
        connection.execute(OLD)
        (stall,) = found(carts)
        said = "; ".join(stall.reasons)
        assert "held back by" in said
        assert f"session {writer.info.backend_pid} " in said


def test_the_projection_that_marten_paused(dumps, dsn, connection, project):
    """A real one, with what Marten keeps of it; the others are at the head."""
    emmett.restore(connection, (dumps / "marten-9.58-v7.sql").read_text())
    project.configure(stores={"s": {"dsn": dsn}})
    result = project.run("status", "--output", "json")
    stalled = {
        each["name"]: each["stalled"] for each in result.json["processors"] if each["stalled"]
    }
    assert [*stalled] == ["Poison:All"]
    assert result.code == 1
    assert stalled["Poison:All"]["seconds"] > 60
    assert "its state is paused" in stalled["Poison:All"]["reasons"]
    assert "at event 138" in " ".join(stalled["Poison:All"]["reasons"])
    text = project.ok("metrics").out
    line = 'esops_stalled{processor="Poison:All",projection="",store="s",version=""} '
    assert float(text.partition(line)[2].split()[0]) > 60
    # Not said twice: doctor has it by another code.
    codes = [each["code"] for each in doctor(project)]
    assert codes.count("ESOPS-D094") == 1
    assert "ESOPS-D089" not in codes
    connection.execute(
        "UPDATE mt_event_progression SET agent_status = 'Running', pause_reason = NULL, "
        "heartbeat = now() - interval '2 hours' WHERE name = 'Poison:All'"
    )
    (finding,) = [each for each in doctor(project) if each["code"] == "ESOPS-D089"]
    assert "Poison:All has not advanced for" in finding["message"]
    assert "its last heartbeat is" in finding["message"]
    assert "If it was stopped for good, do not: delete its row" in finding["fix"]


def test_run_says_which_processor_of_the_application_stands_still(dumps, dsn, connection, project):
    emmett.restore(connection, (dumps / "marten-9.58-v7.sql").read_text())
    project.write("counts.sql", "CREATE TABLE {table} (id text PRIMARY KEY, n integer);")
    project.write(
        "counting.py",
        "from esops import fold\n\n\n@fold(key='stream')\ndef counts(row, event):\n"
        "    return {'id': event.stream, 'n': (row or {'n': 0})['n'] + 1}\n",
    )
    project.configure(
        stores={"s": {"dsn": dsn}},
        projections={
            "counts": {"python": "counting:counts", "tables": ["counts"], "ddl": "counts.sql"}
        },
    )
    project.ok("rebuild", "--blue-green")
    project.patch(
        "import esops.running.host as host\n"
        "from datetime import timedelta\n"
        "host._CHORE_EVERY = timedelta(seconds=0.3)\n"
        "import esops.cli.run_chores as chores\n"
        "chores._LOOK_EVERY = 0.0\n"
    )
    process = project.start("run")
    said = heard(process, "processor=Poison:All")
    assert "has not advanced for" in said
    assert "its state is paused" in said
    connection.execute(
        "UPDATE mt_event_progression p SET last_seq_id = h.last_seq_id "
        "FROM mt_event_progression h WHERE h.name = 'HighWaterMark' AND p.name = 'Poison:All'"
    )
    heard(process, "it advances again")
    end(process)


# --- readers of which the library keeps no time


class Moving:
    """A store of which only the checkpoints are asked; after the last place it stands still."""

    def __init__(self, *places: int) -> None:
        self._places = list(places)

    def checkpoints(self) -> list[Checkpoint]:
        return [reader(self._places.pop(0) if self._places else 3)]


def reader(at: int, updated_at: datetime | None = None) -> Checkpoint:
    return Checkpoint("bank/shop", Position((at,)), "tracked", updated_at)


HEAD, NOW = Head(Position((9,))), datetime.now(UTC)


@pytest.mark.parametrize(("next_place", "is_stalled"), [(3, True), (4, False)])
def test_without_a_time_two_looks_tell(monkeypatch, next_place, is_stalled):
    monkeypatch.setattr(stalls, "_APART", 0.0)
    (found,) = stalls.of_processors(Moving(next_place), [reader(3)], [Lag(6, 90.0)], HEAD, NOW)
    assert (found is not None) is is_stalled


@pytest.mark.parametrize(
    ("lag", "moved_ago", "is_stalled"),
    [
        (Lag(6, 90.0), 300, True),
        (Lag(6, 90.0), 20, False),  # it catches up
        (Lag(6, 20.0), 300, False),  # what waits is new
        (Lag(0, 0.0), 300, False),  # nothing waits
        (Lag(None, None), 300, False),  # nobody knows
    ],
)
def test_both_have_to_be_old(monkeypatch, lag, moved_ago, is_stalled):
    monkeypatch.setattr(stalls, "_APART", 0.0)
    at = reader(3, NOW - timedelta(seconds=moved_ago))
    (found,) = stalls.of_processors(Moving(), [at], [lag], HEAD, NOW)
    assert (found is not None) is is_stalled
    if found is not None:
        assert found.seconds == 90.0


def test_who_moves_between_two_looks_has_only_just_got_old_events(monkeypatch):
    """An import of events with old times, behind a processor that was idle for hours."""
    monkeypatch.setattr(stalls, "_APART", 0.0)
    at, lag = reader(3, NOW - timedelta(hours=2)), Lag(6, 86400.0)
    assert stalls.of_processors(Moving(4), [at], [lag], HEAD, NOW) == [None]
    # Of one that does not run, nothing is to be waited for.
    stopped = replace(at, alive="no", state="stopped")
    (found,) = stalls.of_processors(Moving(4), [stopped], [lag], HEAD, NOW)
    assert found is not None
    assert found.reasons == ["its state is stopped"]


@pytest.mark.parametrize(("behind", "is_stalled"), [(99, False), (100, True)])
def test_what_a_library_notes_now_and_then_is_no_stall(monkeypatch, behind, is_stalled):
    monkeypatch.setattr(stalls, "_APART", 0.0)
    at = reader(3, NOW - timedelta(hours=2))
    at = replace(at, state="recorded", noted_every=100)
    (found,) = stalls.of_processors(Moving(), [at], [Lag(behind, 3600.0)], HEAD, NOW)
    assert (found is not None) is is_stalled
    if found is not None:
        assert found.reasons == []  # "recorded" is none


class Timed:
    """A store with three events, whose times are known by their ids, and a clock of its own."""

    capabilities = SimpleNamespace(position_parts=1)

    def __init__(self, *ages: float) -> None:
        self.clock = datetime(2001, 1, 1, tzinfo=UTC)
        self._times = [self.clock - timedelta(seconds=age) for age in ages]

    def read_all(self, *_: object) -> list[Batch]:
        events = [
            RecordedEvent(str(n), "s", n, Position((n,)), "x", b"{}", b"", each)
            for n, each in enumerate(self._times, 4)
        ]
        return [Batch([], Position((3,))), Batch(events, Position((9,)))]

    @property
    def times(self) -> SimpleNamespace:
        return SimpleNamespace(appended_at=lambda event: event.recorded_at)

    def ping(self) -> SimpleNamespace:
        return SimpleNamespace(clock=self.clock)


@pytest.mark.parametrize(
    ("ages", "oldest"), [((90.0,), 90.0), ((-7200.0, 600.0, 20.0), 600.0), ((-7200.0,), 0.0)]
)
def test_ages_are_by_the_clock_of_the_store_and_of_the_oldest_of_those_that_wait(ages, oldest):
    store = Timed(*ages)
    assert seconds_behind(store, Position((3,)), HEAD) == oldest
    later = store.clock + timedelta(seconds=5)
    assert seconds_behind(store, Position((3,)), HEAD, clock=later) == max(0.0, oldest + 5) * (
        oldest > 0
    )


def test_a_version_that_moves_between_two_looks(carts, dsn, connection, monkeypatch):
    """Its process is there and waits for nothing: old events have just been imported."""
    waiting_events(dsn, connection)
    monkeypatch.setattr(stalls.not_advancing, "of_version", lambda *_: [])

    def works(_: float) -> None:
        connection.execute("UPDATE esops.versions SET position = '70'")

    holder = SimpleNamespace(process="host:1")
    monkeypatch.setattr(stalls.locks, "holder", lambda *_: holder)
    monkeypatch.setattr(stalls.time, "sleep", lambda _: None)
    (stall,) = found(carts)
    assert "its code is at work" in stall.reasons[0]
    monkeypatch.setattr(stalls.time, "sleep", works)
    assert found(carts) == []
