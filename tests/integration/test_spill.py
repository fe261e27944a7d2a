"""A load whose rows do not fit into memory comes to the plain fold: whatever the events, the keys and
the room, and wherever it is stopped.
"""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esops import fold
from esops.errors import Stopped
from esops.events import EventFilter, Position
from esops.readmodel import migrations, registry
from esops.readmodel.registry import Version
from esops.running.runner import Runner
from esops.running.spill.directory import PREFIX, room
from esops.running.spill.keys import partitions_of
from esops.running.work import RunControl, Work
from tests.integration.test_fold import ListStore
from tests.support.cases import thorough_but
from tests.support.soak import rounds
from tests.support.waiting import DEADLINE
from tests.unit.test_building_blocks import event

PATIENCE = timedelta(seconds=DEADLINE)


class CountingStore(ListStore):
    """Knows how many events there are."""

    @property
    def counts(self):
        return self

    def between(self, after, until):
        return sum(
            1 for e in self.events if (after is None or e.position > after) and e.position <= until
        )


KEYS = {
    "text": ("text", lambda n: f"straße-{n}"),
    "uuid": ("uuid", lambda n: UUID(int=n)),
    "numeric": ("numeric", lambda n: [Decimal(n), n, Decimal(f"{n}.00"), float(n)][n % 4]),
    "bigint": ("bigint", lambda n: -n),
    "double precision": ("double precision", lambda n: n / 4),
    "timestamptz": (
        "timestamptz",
        lambda n: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=n),
    ),
    "timestamp": ("timestamp", lambda n: datetime(2024, 1, 1) + timedelta(minutes=n)),
    "date": ("date", lambda n: date(2024, 1, 1) + timedelta(days=n)),
    "bytea": ("bytea", lambda n: b"\0%d" % n),
    "interval": ("interval", lambda n: timedelta(seconds=n)),
    "boolean": ("boolean", lambda n: n % 2 == 0),
}


def counting(make):
    """A fold by keys of one kind, which counts, adds, and now and then removes a row."""

    @fold(key=lambda e: make(e.json()["key"]))
    def counted(row, event):
        data = event.json()
        if data["do"] == "remove":
            return None
        row = row or {"n": 0, "texts": ""}
        return {"n": row["n"] + 1, "texts": f"{row['texts']},{event.version}"[-40:]}

    return counted


def history(length: int, keys: int, seed: int = 1, removed: float = 0.05) -> list:
    chance = random.Random(seed)
    return [
        event(
            stream=f"s-{n % keys}",
            version=n,
            position=Position((n,)),
            data=orjson.dumps(
                {"key": n % keys, "do": "remove" if chance.random() < removed else "add"}
            ),
        )
        for n in range(1, length + 1)
    ]


def expected(definition, events, make) -> dict:
    rows: dict = defaultdict(lambda: None)
    for each in events:
        key = make(each.json()["key"])
        rows[key] = definition(rows[key], each)
    return {key: (row["n"], row["texts"]) for key, row in rows.items() if row is not None}


@pytest.fixture
def load(dsn, connection, tmp_path):
    return Load(dsn, connection, tmp_path)


class Load:
    """A version that is being built in tiny memory."""

    def __init__(self, dsn, connection, folder) -> None:
        self.dsn, self.connection, self.folder = dsn, connection, folder / "spill"
        self.said: list[str] = []
        migrations.install(connection)

    def table(self, columns: str = "k text PRIMARY KEY") -> None:
        self.connection.execute("DROP TABLE IF EXISTS c__v1")
        self.connection.execute(f"CREATE TABLE c__v1 ({columns}, n int, texts text)")
        self.connection.execute(
            "TRUNCATE esops.versions, esops.dead_letters, esops.spills, esops.rebuilds"
        )
        shutil.rmtree(self.folder, ignore_errors=True)
        self.said = []
        registry.insert(
            self.connection,
            Version("c", 1, "building", "s", None, 0, 0, {"c": ("public", "c__v1")}, "x"),
        )

    def runner(
        self,
        definition,
        store,
        *,
        cache=20_000,
        limit=1 << 30,
        commit=None,
        on_error="stop",
        stop=lambda: False,
    ):
        work = Work(
            "c", 1, definition, EventFilter(), on_error, cache, commit,
            spill=self.folder, spill_limit=limit,
        )  # fmt: skip
        control = RunControl(stop=stop, say=self.said.append)
        return Runner(store, self.dsn, work, control, lock_patience=PATIENCE)

    def run(self, definition, events, until=None, **options) -> None:
        store = CountingStore(events, options.pop("pieces", 700))
        runner = self.runner(definition, store, **options)
        try:
            runner.run_until(until or events[-1].position)
        finally:
            runner.close()

    @property
    def rows(self) -> dict:
        found = self.connection.execute("SELECT * FROM c__v1").fetchall()
        rows = {row[:-2] if len(row) > 3 else row[0]: row[-2:] for row in found}
        assert len(rows) == len(found), "rows were doubled"
        return rows

    @property
    def version(self) -> Version:
        return registry.version(self.connection, "c", 1)

    @property
    def row(self):
        return self.connection.execute(
            "SELECT until, partition, done, partitions FROM esops.spills"
        ).fetchone()

    @property
    def directories(self) -> list[Path]:
        return list(self.folder.glob(f"{PREFIX}*"))

    def check(self, rows, events, *, letters=0) -> None:
        assert self.rows == rows
        assert self.version.position == events[-1].position
        assert (self.version.events, self.version.rows) == (len(events), len(rows))
        assert self.row is None
        assert self.directories == []
        found = self.connection.execute("SELECT count(*) FROM esops.dead_letters").fetchone()
        assert found == (letters,)

    def spilled(self) -> bool:
        return any("partitions" in text for text in self.said)

    def began_again(self) -> bool:
        return any("begins again without spilling" in text for text in self.said)


@pytest.mark.parametrize(
    "kind",
    thorough_but(KEYS, "text", "bigint", "numeric", "timestamptz", "double precision", "boolean"),
)
def test_keys_of_every_kind(load, kind):
    type_, make = KEYS[kind]
    load.table(f"k {type_} PRIMARY KEY")
    definition, events = counting(make), history(2_000, 500)
    load.run(definition, events, cache=2_000 if kind == "boolean" else 7_000)
    load.check(expected(definition, events, make), events)
    assert load.spilled() or kind == "boolean"


def test_a_key_of_several_columns(load):
    load.table("a text, b numeric, PRIMARY KEY (a, b)")

    def make(n):
        return (f"é{n % 3}", Decimal(n) / 2)

    definition, events = counting(make), history(6_000, 1_500)
    load.run(definition, events)
    load.check(expected(definition, events, make), events)
    assert load.spilled()


@settings(max_examples=rounds(6, 400))
@given(
    st.integers(0, 10_000),
    st.integers(1, 3_000),
    st.integers(300, 2_500),
    st.sampled_from([1_000, 5_000, 20_000, 100_000]),
    st.sampled_from([None, 100, 999]),
    st.sampled_from([30_000, 1 << 30]),
    st.lists(st.integers(1, 40), max_size=4),
)
def test_any_history_with_any_memory_room_and_stops(
    load, seed, keys, length, cache, commit, limit, stops
):
    load.table()
    make = KEYS["text"][1]
    definition, events = counting(make), history(length, keys, seed)
    for stop in stops:
        asked = iter(range(stop))
        try:
            load.run(
                definition, events, cache=cache, commit=commit, limit=limit, pieces=97,
                stop=lambda asked=asked: next(asked, None) is None,
            )  # fmt: skip
        except Stopped:
            pass
    load.run(definition, events, cache=cache, commit=commit, limit=limit, pieces=97)
    load.check(expected(definition, events, make), events)


@fold(key=lambda e: e.stream)
def seeing(row, event):
    """A fold that notes which columns and types it is given."""
    given = event.json()
    seen = "" if row is None else "".join(f"{name[0]}{type(row[name]).__name__[0]}" for name in row)
    return {**given, "n": event.version, "texts": ((row or {"texts": ""})["texts"] + seen)[-200:]}


def unsteady(length: int, keys: int, late: dict[int, dict], first: dict) -> list:
    """Events whose rows show what `first` has, but for single ones, by their numbers: they show
    what `late` has.
    """
    made = []
    for n in range(1, length + 1):
        data = first | late.get(n, {})
        made.append(
            event(
                stream=f"s-{n * 7 % keys if n % 3 else n % 9}",  # some of them again and again
                version=n,
                position=Position((n,)),
                data=orjson.dumps(data),
            )
        )
    return made


LATE: list[dict[int, dict]] = [
    {1_000: {"y": 1}, 1_100: {"y": 0.5}},
    {1_000: {"opt": 1}},
    {1_000: {"x": 1.5}},
]


class TestWhatAFoldSees:
    """A fold that can tell which columns and types rows have shown makes the same of them."""

    TABLE = "stream text PRIMARY KEY, x numeric, y numeric, opt int"

    def in_memory(self, load, events, cache=1 << 28, **options) -> dict:
        load.table(self.TABLE)
        load.run(seeing, events, cache=cache, **options)
        return load.rows

    def test_what_came_before_the_spill_is_seen_at_the_same_events(self, load):
        late = {20: {"opt": 1}, 31: {"x": 1.5}, 60: {"y": None}, 90: {"y": 2}}
        events = unsteady(1_200, 300, late, {"x": 1})
        expected = self.in_memory(load, events)
        load.table(self.TABLE)
        load.run(seeing, events, cache=40_000)
        load.check(expected, events)
        assert load.spilled()
        assert not load.began_again()

    @pytest.mark.parametrize("late", thorough_but(LATE, LATE[0]))
    def test_what_comes_later_is_loaded_without_a_spill(self, load, late):
        events = unsteady(1_200, 300, late, {"x": 1, "y": None})
        expected = self.in_memory(load, events)
        load.table(self.TABLE)
        load.run(seeing, events, cache=40_000)
        load.check(expected, events)
        assert load.began_again()

    def test_none_that_becomes_a_number_is_nothing_that_a_fold_can_see(self, load):
        events = unsteady(1_200, 300, {n: {"y": n} for n in range(900, 1_200)}, {"y": None})
        expected = self.in_memory(load, events)
        load.table(self.TABLE)
        load.run(seeing, events, cache=40_000)
        load.check(expected, events)
        assert load.spilled()
        assert not load.began_again()

    def test_who_continues_does_not_spill_again(self, load):
        events = unsteady(1_200, 300, {1_000: {"opt": 1}}, {"x": 1})
        expected = self.in_memory(load, events)
        load.table(self.TABLE)
        load.connection.execute(
            "INSERT INTO esops.rebuilds (projection, state, to_version, host, pid) "
            "VALUES ('c', 'catching_up', 1, 'here', 1)"
        )
        with pytest.raises(Stopped):
            load.run(seeing, events, cache=40_000, stop=load.began_again)
        load.said.clear()
        load.run(seeing, events, cache=40_000)
        load.check(expected, events)
        assert not load.spilled()

    @pytest.mark.thorough
    @settings(max_examples=rounds(6, 60))
    @given(st.data())
    def test_any_history_with_any_memory_and_stops(self, load, data):
        draw = data.draw
        length, keys = draw(st.integers(300, 2_500)), draw(st.integers(1, 800))
        values = st.fixed_dictionaries(
            {}, optional={
                "opt": st.sampled_from([None, 1]),
                "x": st.sampled_from([None, 1, 1.5]),
                "y": st.sampled_from([None, 2, 2.5]),
            },
        )  # fmt: skip
        near = st.integers(1, 200) | st.integers(1, length)
        late = draw(st.dictionaries(near, values, max_size=8))
        events = unsteady(length, keys, late, draw(values))
        expected = self.in_memory(load, events)
        load.table(self.TABLE)
        cache, commit = (
            draw(st.sampled_from([5_000, 20_000, 60_000])),
            draw(st.sampled_from([None, 100, 999])),
        )
        for stop in draw(st.lists(st.integers(1, 40), max_size=4)):
            asked = iter(range(stop))
            try:
                load.run(
                    seeing, events, cache=cache, commit=commit, pieces=97,
                    stop=lambda asked=asked: next(asked, None) is None,
                )  # fmt: skip
            except Stopped:
                pass
        load.run(seeing, events, cache=cache, commit=commit, pieces=97)
        load.check(expected, events)


@pytest.mark.thorough
@pytest.mark.parametrize("within", thorough_but([120.0, -1.0], 120.0))
def test_keys_that_come_back_late_are_noticed_late(load, monkeypatch, within):
    monkeypatch.setattr("esops.running.spill.applier.AGAIN_WITHIN_SECONDS", within)
    load.table()
    make = KEYS["text"][1]
    # Each key has three events at once, and comes back much later.
    keys = [key for _ in range(5) for key in range(600) for _ in range(3)]
    events = [
        event(
            stream=f"s-{key}",
            version=n,
            position=Position((n,)),
            data=orjson.dumps({"key": key, "do": "add"}),
        )
        for n, key in enumerate(keys, 1)
    ]
    definition = counting(make)
    load.run(definition, events, cache=40_000, pieces=100)
    load.check(expected(definition, events, make), events)
    assert load.spilled()
    # All events are in the files where what was committed has been dropped.
    assert any("9,000 events" in text for text in load.said) == (within > 0)


def test_keys_that_do_not_come_back_need_no_spill(load):
    load.table()
    make = KEYS["text"][1]
    keys = [key for key in range(2_000) for _ in range(4)]
    events = [
        event(
            stream=f"s-{key}",
            version=n,
            position=Position((n,)),
            data=orjson.dumps({"key": key, "do": "add"}),
        )
        for n, key in enumerate(keys, 1)
    ]
    definition = counting(make)
    load.run(definition, events, cache=40_000, pieces=100)
    load.check(expected(definition, events, make), events)
    assert not load.spilled()


def test_the_disk_keeps_a_reserve(monkeypatch, tmp_path):
    def full(total, free):
        monkeypatch.setattr(
            "esops.running.spill.directory.shutil.disk_usage",
            lambda _: SimpleNamespace(total=total, free=free),
        )

    full(100 << 30, 50 << 30)
    assert room(tmp_path, 20 << 30) == 20 << 30
    full(100 << 30, 10 << 30)
    assert room(tmp_path, 20 << 30) == 6 << 30
    full(1 << 30, 20 << 20)
    assert room(tmp_path, 20 << 30) < 0


def test_a_disk_that_fills_up_ends_the_round(load, monkeypatch):
    load.table()
    make = KEYS["text"][1]
    definition, events = counting(make), history(6_000, 1_500)
    looks = iter(range(1_000))

    def filling(_):
        return SimpleNamespace(
            total=1 << 40, free=(5 << 30) - 9_000_000 * (next(looks) % 8 == 7) * 999
        )

    monkeypatch.setattr("esops.running.spill.directory.shutil.disk_usage", filling)
    load.run(definition, events, pieces=300)
    load.check(expected(definition, events, make), events)


@given(
    st.lists(
        st.integers()
        | st.text()
        | st.floats(allow_nan=False)
        | st.decimals(allow_nan=False)
        | st.datetimes()
        | st.datetimes(timezones=st.just(UTC))
        | st.uuids()
        | st.binary()
        | st.dates()
        | st.booleans()
    )
)
def test_equal_keys_are_in_one_partition_alone_and_in_tuples(values):
    alone, paired = partitions_of(values, 64), partitions_of([(v, "x") for v in values], 64)
    for n, one in enumerate(values):
        assert partitions_of([one], 64) == [alone[n]]
        for m, other in enumerate(values[:n]):
            if one == other:
                assert alone[n] == alone[m]
                assert paired[n] == paired[m]
