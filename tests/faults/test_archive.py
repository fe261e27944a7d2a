"""Archiving that is killed, starved and lied to: at no moment is an event neither in the store nor
in a verified archive.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import orjson
import psycopg
import pyrage
import pytest
from psycopg.conninfo import make_conninfo

from esops.archive import run as runs
from esops.archive.catalog_view import verify_runs
from esops.archive.restore import restore
from esops.archive_format.lease import Lease
from esops.archive_format.repository import Repository, Taken
from esops.archive_format.runs import Catalog, Run
from esops.archive_format.schema import Damaged
from esops.config import load_config
from esops.errors import AbsentArchive, Busy, EsopsError, Stopped
from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, marten, messagedb
from tests.support.archiver import Archiver
from tests.support.cases import thorough_but
from tests.support.objects import ObjectStore
from tests.support.soak import rounds
from tests.support.waiting import until

MAKERS = {
    "marten": (lambda on: marten.create(on, marten.Variant(text_ids=True)), "delete"),
    "marten-partitioned": (
        lambda on: marten.create(on, marten.Variant(text_ids=True, partitioned=True)),
        "archive",
    ),
    "emmett": (emmett.create, "delete"),
    "messagedb": (messagedb.create, "delete"),
}
thorough = pytest.mark.thorough
STREAMS = 40
KILLS = rounds(20, 200)


def write(
    project, dsn: str, how: str, repository: str = "cold", more: str = "", policy: str = ""
) -> None:
    project.write(
        "esops.toml",
        f"""
[stores.s]
dsn = {json.dumps(dsn)}
append = "quick"
[archives.cold]
repository = {json.dumps(repository)}
file_size = 65536
{more}
[archives.cold.policies.old]
store = "s"
stream = "cart-*"
remove = "{how}"
never_younger_than = "0s"
batch = 25
{policy}
[stores.cold]
backend = "archive"
archive = "cold"
""",
    )


def fill(dsn: str, streams: int = STREAMS) -> dict[str, list]:
    """Streams of random lengths and hardly compressible payloads; their events."""
    chance = random.Random(3)
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(streams):
            events = [
                NewEvent(
                    str(uuid.uuid4()),
                    "added",
                    orjson.dumps({"n": n, "x": chance.randbytes(300).hex()}),
                )
                for n in range(chance.randint(2, 12))
            ]
            store.append(f"cart-{number:03d}", events)
        return {
            f"cart-{number:03d}": list(store.read_stream(f"cart-{number:03d}"))
            for number in range(streams)
        }


def both(project, dsn: str) -> tuple[dict[str, set], dict[str, set]]:
    """The ids of each stream's events in the store, and in archives that verify; whatever else is
    in the repository.
    """
    config = load_config(project.folder / "esops.toml")
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        hot: dict[str, set] = {}
        for batch in store.read_all():
            for event in batch.events:
                hot.setdefault(event.stream, set()).add(event.id)
    cold: dict[str, set] = {}
    try:
        catalog = Catalog(Repository(config.archives["cold"]))
    except AbsentArchive:
        # On a slow machine each of the first runs may be killed before it makes the folder. What
        # has left the store without one is missed by the caller.
        return hot, cold
    if catalog.sealed():
        assert all(result.ok for result in verify_runs(config, catalog))
        with open_store("cold", config.stores["cold"]) as store:
            for batch in store.read_all():
                for event in batch.events:
                    cold.setdefault(event.stream, set()).add(event.id)
    return hot, cold


def assert_nothing_lost(project, dsn: str, before: dict[str, list]) -> None:
    hot, cold = both(project, dsn)
    for stream, events in before.items():
        missing = {event.id for event in events} - hot.get(stream, set()) - cold.get(stream, set())
        assert not missing, (stream, missing)


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("marten", "after"),
        pytest.param("marten", "before", marks=thorough),
        *(pytest.param(name, "after", marks=thorough) for name in MAKERS if name != "marten"),
    ],
)
def test_killed_before_and_after_every_write(project, dsn, connection, name, when):
    """Each write to the repository and each removal is a step boundary; runs go on until one has
    gone through. Before a write is after the one before it: both ways once are enough.
    """
    make, how = MAKERS[name]
    make(connection)
    before = fill(dsn, 12)
    write(project, dsn, how)
    kills = 0
    with Archiver(project.folder / "esops.toml", "old") as archiver:
        for number in range(1, 100):
            archiver.begin(kill=number, when=when)
            code, told = archiver.end()
            assert code in (0, -signal.SIGKILL), told
            kills += code != 0
            assert_nothing_lost(project, dsn, before)
            if code == 0:
                break
        archiver.begin()
        assert archiver.end()[0] == 0
    assert kills >= 10
    check_the_end(project, dsn, before)


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("marten", 2),
        pytest.param("marten", 1, marks=thorough),
        pytest.param("messagedb", 1, marks=thorough),
    ],
)
def test_shortening_is_killed_before_every_write_while_a_writer_appends(
    project, dsn, connection, name, every
):
    """A writer of the same streams is never refused and never waits long for a lock, no event is
    lost, and what stays begins with the event that carries the state.
    """
    MAKERS[name][0](connection)
    settings, streams = PostgresSettings(dsn=dsn, append="quick"), ["cart-0", "cart-1"]
    impatient = make_conninfo(dsn, options="-c lock_timeout=1s")
    stop, written = threading.Event(), {stream: [] for stream in streams}

    def append() -> None:
        with open_store("s", PostgresSettings(dsn=impatient, append="quick")) as store:
            for number in itertools.count():
                stream = streams[number % 2]
                kind = "summed" if number % 10 > 7 else "added"
                events = [NewEvent(str(uuid.uuid4()), kind, b"{}")]
                store.append(stream, events)
                written[stream] += [event.id for event in events]
                if stop.wait(0.05) and number % 10 == 9:
                    return

    write(project, dsn, "delete", policy='until = "summed"')
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(append)
        kills = 0
        try:
            with Archiver(project.folder / "esops.toml", "old") as archiver:
                until(lambda: len(written["cart-1"]) > 5)
                for number in range(1, 100, every):
                    archiver.begin(kill=number, when="before")
                    code, told = archiver.end()
                    assert code in (0, -signal.SIGKILL), told
                    kills += code != 0
                    if code == 0:
                        break
                stop.set()
                writer.result()
                for _ in range(2):  # what is unfinished, and what was appended since
                    archiver.begin()
                    assert archiver.end()[0] == 0
        finally:
            stop.set()
    assert kills >= 8 // every
    hot, cold = both(project, dsn)
    for stream, ids in written.items():
        assert hot[stream] == {ids[-1]}, "the last event is the newest that carries the state"
        assert cold[stream] == set(ids[:-1])
    config = load_config(project.folder / "esops.toml")
    joined = settings.model_copy(update={"cold": config.archives["cold"]})
    with open_store("s", joined) as store:
        for stream, ids in written.items():
            assert [event.id for event in store.read_stream(stream)] == ids
    with open_store("s", settings) as store:
        runs = Catalog(Repository(config.archives["cold"])).sealed()
        for run, manifest in sorted(runs, key=lambda each: -int(each[1].last_position)):
            restore(run, manifest, store)
        for stream, ids in written.items():
            assert [event.id for event in store.read_stream(stream)] == ids


def check_the_end(project, dsn: str, before: dict[str, list]) -> None:
    """All of it is archived and removed, and comes back whole."""
    config = load_config(project.folder / "esops.toml")
    _, cold = both(project, dsn)
    assert cold == {stream: {event.id for event in events} for stream, events in before.items()}
    catalog = Catalog(Repository(config.archives["cold"]))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        hot = {stream: list(store.read_stream(stream)) for stream in before}
        assert all(
            len(events) <= 1 or store.stream_info(stream).archived for stream, events in hot.items()
        )
        for run, manifest in catalog.sealed():
            restore(run, manifest, store)
        assert {stream: list(store.read_stream(stream)) for stream in before} == before


@thorough
def test_killed_at_random_while_writers_append(project, dsn, connection):
    """Streams that a writer appends to meanwhile are left alone or archived as they were; the rest
    goes.
    """
    MAKERS["marten"][0](connection)
    before = fill(dsn, 150)
    write(project, dsn, "delete")
    chance = random.Random(11)
    stop = threading.Event()
    added: dict[str, list[str]] = {}

    def append() -> None:
        with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
            while not stop.is_set():
                stream = f"cart-{chance.randrange(150):03d}"
                event = NewEvent(str(uuid.uuid4()), "late", b"{}")
                try:
                    store.append(stream, [event])
                    added.setdefault(stream, []).append(event.id)
                except EsopsError:
                    pass  # archived
                time.sleep(0.02)

    writer = threading.Thread(target=append)
    writer.start()
    kills = 0
    try:
        with Archiver(project.folder / "esops.toml", "old") as archiver:
            while kills < KILLS:
                process = archiver.begin()
                time.sleep(chance.random() * 0.25)
                os.kill(process, signal.SIGKILL)
                code, told = archiver.end()
                kills += code == -signal.SIGKILL
                assert code in (0, 5, -signal.SIGKILL), told
                if kills % 10 == 0:
                    assert_nothing_lost(project, dsn, before)
            stop.set()
            writer.join()
            for _ in range(2):
                archiver.begin()
                assert archiver.end()[0] == 0
    finally:
        stop.set()
        writer.join()
    hot, cold = both(project, dsn)
    for stream, events in before.items():
        assert {event.id for event in events} | set(added.get(stream, ())) <= hot.get(
            stream, set()
        ) | cold.get(stream, set())


def test_a_full_disk_stops_it_and_nothing_is_removed(project, dsn, connection):
    MAKERS["marten"][0](connection)
    before = fill(dsn)
    write(project, dsn, "delete")

    project.patch("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))")
    done = project.run("archive", "run", "old", "--despite-checkpoints")
    assert done.code == 3, done.err
    assert "cannot write" in done.err
    project.patch("")
    hot, _ = both(project, dsn)
    assert hot == {stream: {event.id for event in events} for stream, events in before.items()}
    project.ok("archive", "run", "old", "--despite-checkpoints")
    check_the_end(project, dsn, before)


@pytest.fixture(scope="module")
def objects():
    with ObjectStore() as store:
        yield store


@pytest.fixture
def bucket(objects, project, monkeypatch):
    objects.faults.clear()
    name = f"archives-{uuid.uuid4().hex[:8]}"
    objects.make(name)
    for key, value in objects.environment.items():
        project.environment[key] = value
        monkeypatch.setenv(key, value)
    return f"s3://{name}/shop"


@pytest.mark.parametrize(
    "fault",
    [
        "alter",
        *thorough_but(("error", "hang", "truncate", "lose")),
    ],
)
def test_a_repository_that_fails_or_lies_costs_no_event(
    project, dsn, connection, objects, bucket, fault
):
    MAKERS["marten"][0](connection)
    before = fill(dsn, 8)
    write(project, dsn, "delete", bucket, 'timeout = "1s"')
    objects.faults[fault] = "events"  # of all files whose name has this
    result = project.run("archive", "run", "old", "--despite-checkpoints")
    assert result.code in (1, 3), (result.out, result.err)
    objects.faults.clear()
    hot, _ = both(project, dsn)
    assert hot == {stream: {event.id for event in events} for stream, events in before.items()}
    project.ok("archive", "run", "old", "--despite-checkpoints")
    check_the_end(project, dsn, before)


@thorough
def test_an_object_store_holds_an_archive_and_all_commands_work_on_it(
    project, dsn, connection, bucket
):
    MAKERS["emmett"][0](connection)
    before = fill(dsn, 8)
    identity = pyrage.x25519.Identity.generate()
    project.environment["AGE_KEY"] = str(identity)
    write(
        project,
        dsn,
        "archive",
        bucket,
        f'encrypt_to = ["{identity.to_public()}"]\nidentity = "${{AGE_KEY}}"',
    )
    run = project.ok("archive", "run", "old", "--despite-checkpoints", "--output", "json").json
    assert run["streams"] == 8
    assert project.ok("archive", "verify", "--output", "json").json["ok"]
    count = sum(len(events) for events in before.values())
    assert project.ok(
        "archive", "query", "SELECT count(*) AS n FROM events", "--output", "json"
    ).json == [{"n": count}]
    assert len(project.ok("events", "--store", "cold").out.splitlines()) == count
    project.ok("archive", "restore", run["run"], "--yes")
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        assert {stream: list(store.read_stream(stream)) for stream in before} == before


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_of_two_who_seal_one_wins(project, bucket, kind):
    write(project, "dbname=x", "keep", bucket if kind == "s3" else "cold")
    archive = load_config(project.folder / "esops.toml").archives["cold"]
    for number in range(10):
        outcomes: list[str] = []
        barrier = threading.Barrier(2)

        def seal(
            content: bytes,
            name: str = f"runs/r{number}/manifest.json",
            barrier=barrier,
            outcomes=outcomes,
        ) -> None:
            repository = Repository(archive, make=True)
            barrier.wait()
            try:
                repository.put(name, content, if_absent=True)
                outcomes.append("sealed")
            except Taken:
                outcomes.append("taken")

        both_ = [threading.Thread(target=seal, args=(content,)) for content in (b"one", b"two")]
        for thread in both_:
            thread.start()
        for thread in both_:
            thread.join()
        assert sorted(outcomes) == ["sealed", "taken"]


def test_two_runs_of_a_policy_are_not_at_it_at_once(project, dsn, connection):
    MAKERS["marten"][0](connection)
    fill(dsn, 2)
    write(project, dsn, "keep")
    settings = load_config(project.folder / "esops.toml").archives["cold"]
    repository = Repository(settings, make=True)
    with Lease(repository, "cold/old") as lease:
        result = project.run("archive", "run", "old")
        assert result.code == 4
        assert str(os.getpid()) in result.err
        with pytest.raises(Busy):
            Lease(repository, "cold/old").__enter__()
        # another machine takes over after a long silence: the first notices before it does harm
        repository.put(f"locks/cold/old/{lease.number + 1:06d}.json", b"{}")
        with pytest.raises(Stopped, match="took over this policy"):
            lease.check()
    os.unlink(project.folder / f"cold/locks/cold/old/{lease.number + 1:06d}.json")
    project.ok("archive", "run", "old")


def test_a_flipped_byte_of_any_file_is_found(project, dsn, connection):
    """A thousand flips, in plain and encrypted archives, in every kind of file."""
    MAKERS["marten"][0](connection)
    fill(dsn, 3)
    identity = pyrage.x25519.Identity.generate()
    chance = random.Random(5)
    kinds = set()
    for folder, more in (
        ("plain", ""),
        ("secret", f'encrypt_to = ["{identity.to_public()}"]\nidentity = "{identity}"'),
    ):
        write(project, dsn, "keep", folder, more)
        project.ok("archive", "run", "old")
        config = load_config(project.folder / "esops.toml")
        catalog = Catalog(Repository(config.archives["cold"]))
        files = [
            path
            for path in (project.folder / folder).rglob("*")
            # The summary is a cache: where a byte of it changed, nothing of it counts. Who did what
            # is no content of the archive.
            if path.is_file()
            and not {"locks", "actions"} & {*path.parts}
            and path.name != "summary.json"
        ]
        assert len(files) == 7

        def problems(config=config, catalog=catalog) -> list[str]:
            return [text for result in verify_runs(config, catalog) for text in result.problems]

        assert problems() == []
        for _ in range(rounds(150, 1_000)):
            path = chance.choice(files)
            content = bytearray(path.read_bytes())
            at, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
            content[at] ^= bit
            path.write_bytes(content)
            assert problems(), f"byte {at} of {path.name}"
            content[at] ^= bit
            path.write_bytes(content)
            kinds.add(path.name.partition("-")[2] or path.name)
        assert problems() == []
    assert len(kinds) >= 6


def test_a_lost_file_a_lost_manifest_and_a_lost_run_are_found(project, dsn, connection):
    MAKERS["marten"][0](connection)
    fill(dsn, 3)
    write(project, dsn, "keep")
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    folder = project.folder / "cold" / "runs" / run
    events = next(folder.glob("*events*"))
    content = events.read_bytes()
    for change, words in (
        (lambda: events.unlink(), "does not exist"),
        (lambda: events.write_bytes(content[:-100]), "bytes instead of"),
        (lambda: (folder / "manifest.json").unlink(), "has no manifest"),
    ):
        change()
        result = project.run("archive", "verify")
        assert result.code == 1
        assert words in result.out
        events.write_bytes(content)
    assert "0 files" in project.ok("archive", "gc", "--older-than", "0s").out, (
        "a run whose manifest is lost is no garbage"
    )
    subprocess.run(["rm", "-r", str(folder)], check=True)
    assert "has no manifest" in project.run("archive", "verify").out


def test_what_killed_runs_leave_is_collected_and_sealed_runs_are_not(project, dsn, connection):
    MAKERS["marten"][0](connection)
    before = fill(dsn, 3)
    write(project, dsn, "delete")
    with Archiver(project.folder / "esops.toml", "old") as archiver:
        archiver.begin(kill=3, when="after")
        assert archiver.end()[0] == -signal.SIGKILL
        assert "0 files" in project.ok("archive", "gc").out, "too young"
        archiver.begin()
        assert archiver.end()[0] == 0
    repository = Repository(load_config(project.folder / "esops.toml").archives["cold"])
    left = Run(repository, "20260101T000000Z-old-abcdef")
    left.note("plan.json", {"policy": "cold/old", "store": "s", "remove": "delete"})
    with Lease(repository, "cold/old"):
        assert (
            "1 file kept that a run may still need"
            in project.ok("archive", "gc", "--older-than", "0s", "--dry-run").out
        ), "at work"
    os.unlink(project.folder / "cold" / left.path("plan.json"))
    would = project.ok("archive", "gc", "--older-than", "0s", "--dry-run", "--output", "json").json
    assert would["files"] == 1
    assert not would["deleted"]
    assert project.ok("archive", "gc", "--older-than", "0s", "--output", "json").json["files"] == 1
    assert project.ok("archive", "gc", "--older-than", "0s", "--output", "json").json["files"] == 0
    check_the_end(project, dsn, before)


def test_a_store_that_is_locked_is_left_alone(project, dsn, connection):
    """A writer's lock on a stream, and one on the table, delay nobody and are passed over."""
    MAKERS["marten"][0](connection)
    before = fill(dsn, 6)
    write(project, dsn, "delete", policy='lock_timeout = "200ms"')
    with psycopg.connect(dsn) as other:
        other.execute("SELECT * FROM mt_streams WHERE id = 'cart-002' FOR UPDATE")
        told = project.ok("archive", "run", "old", "--despite-checkpoints", "--output", "json").json
        assert told["removed"] == 5
        assert told["skipped"] == [
            {"stream": "cart-002", "reason": "a writer holds it, or it does not exist any more"}
        ]
    with psycopg.connect(dsn) as other:
        other.execute("LOCK TABLE mt_events IN SHARE MODE")
        told = project.ok("archive", "run", "old", "--despite-checkpoints", "--output", "json").json
        assert told["removed"] == 0
        assert told["skipped"] == [{"stream": "cart-002", "reason": "a writer holds it"}]
    assert (
        project.ok("archive", "run", "old", "--despite-checkpoints", "--output", "json").json[
            "removed"
        ]
        == 1
    )
    assert_nothing_lost(project, dsn, before)


@pytest.mark.parametrize("harm", ["lost", "shortened", "another seal"])
def test_what_befalls_files_between_reading_back_and_the_seal_is_found(
    project, dsn, connection, monkeypatch, harm
):
    """Files are read back as they are written, and hours may pass before the last of them: nothing
    is removed.
    """
    MAKERS["marten"][0](connection)
    before = fill(dsn, 6)
    write(project, dsn, "delete")
    check, put = Lease.check, Repository.put

    def befall(lease: Lease) -> None:  # asked last before the seal
        check(lease)
        for path in (project.folder / "cold").rglob("*events*.parquet"):
            if harm == "lost":
                path.unlink()
            elif harm == "shortened":
                path.write_bytes(path.read_bytes()[:-1])

    def alter(repository: Repository, name: str, content: bytes, **how: bool) -> None:
        if harm == "another seal" and name.endswith("manifest.json"):
            content = bytes(content).replace(b'"events"', b'"eventz"', 1)
        put(repository, name, content, **how)

    with monkeypatch.context() as fault:
        fault.setattr(Lease, "check", befall)
        fault.setattr(Repository, "put", alter)
        told = runs.run(
            load_config(project.folder / "esops.toml"),
            "old",
            runs.RunRequest(despite_checkpoints=True),
        )
        assert told.state == "failed"
        assert {"lost": "not in the repository any more", "shortened": "bytes instead of"}.get(
            harm, "SHA-256"
        ) in told.problems[0]
        assert told.removed == 0
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        assert {stream: list(store.read_stream(stream)) for stream in before} == before
    if (
        harm == "another seal"
    ):  # it stands where a run's own would be: the run stays failed, and `verify` says so
        assert project.run("archive", "verify").code == 1
    else:
        project.ok("archive", "run", "old", "--despite-checkpoints")
        check_the_end(project, dsn, before)


def test_a_damaged_manifest_is_no_traceback(project, dsn, connection):
    MAKERS["marten"][0](connection)
    fill(dsn, 3)
    write(project, dsn, "keep")
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    manifest = project.folder / "cold" / "runs" / run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"events": ', '"events":  '))
    assert project.run("archive", "show", run).code == 1
    assert project.run("events", "--store", "cold").code == 1
    assert project.ok("archive", "list", "--output", "json").json[0]["state"] == "damaged"
    with pytest.raises(Damaged):
        Catalog(Repository(load_config(project.folder / "esops.toml").archives["cold"])).sealed()
