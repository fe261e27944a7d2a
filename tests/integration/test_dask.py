"""Shards on a Dask cluster of two processes: the same rows, whoever dies, and nobody at work whose
rebuild has gone.
"""

from __future__ import annotations

import contextlib
import signal

import psutil
import pytest

from tests.integration.test_workers import shards
from tests.support import shop
from tests.support.waiting import finish, stays, until

EVENTS = 3_000
# One cluster for all of them: each process that shares the tests would start its own.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dask")]


def local_cluster(workers: int = 2, threads: int = 1, **options):
    """Dask is imported by who needs it, not by each process that collects tests."""
    distributed = pytest.importorskip(
        "distributed", reason="Dask is an extra: pip install 'esops[dask]'"
    )
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        dashboard_address=":0",
        silence_logs=50,
        **options,
    )


@pytest.fixture(scope="module")
def cluster():
    with local_cluster() as cluster:
        yield cluster


@pytest.fixture
def engine(cluster):
    return cluster.scheduler_address.replace("tcp://", "dask://")


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    return project


SLOW = ("--batch-size", "100", "--max-rate", "1000")


def at_work() -> list[psutil.Process]:
    found = []
    for each in psutil.Process().children(recursive=True):  # not those of tests beside this one
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [each] if "esops.rebuild.load.worker" in each.cmdline() else []
    return found


def loaded(connection) -> int:
    return sum(each[3] for each in shards(connection))


def test_a_clusters_workers_make_what_one_process_makes(dsn, project, connection):
    """A cluster of threads: each works through a process of its own, as in any cluster."""
    shop.make(dsn, 400)
    shop.configure(project, dsn)
    with local_cluster(processes=False, protocol="tcp://") as own:
        engine = own.scheduler_address.replace("tcp://", "dask://")
        done = project.ok("rebuild", "--blue-green", "--engine", engine, "--output", "json")
    assert "2 processes of the Dask cluster at" in done.err
    assert (done.json["state"], done.json["events"]) == ("switched", 400)
    assert shop.check_version(connection, 1) == 40


@pytest.mark.thorough
def test_they_take_code_that_has_changed_and_more_processes_than_workers(
    carts, engine, connection, dsn
):
    good = (carts.folder / "shop_projections.py").read_text()
    bad = good.replace(
        "    at = event.position[0]\n",
        "    at = event.position[0]\n    assert at != 2321, 'bad luck'\n",
    )
    carts.write("shop_projections.py", bad)
    rebuild = ("rebuild", "--blue-green", "--engine", engine)
    failed = carts.run(*rebuild)
    assert failed.code == 6, "what stops a shard stops the rebuild"
    assert "2 processes of the Dask cluster at" in failed.err
    assert "position 2321" in failed.err
    assert "bad luck" in failed.err
    carts.ok("rebuild", "--blue-green", "--abort", "--yes")
    # Workers live long: they take the code that is there now, and not what they had before.
    carts.write("shop_projections.py", good)
    with shop.Workload() as workload:
        workload.add("writer", dsn, rate=100)
        done = carts.ok(*rebuild, "--workers", "3", "--output", "json")
        workload.stop()
    assert "3 processes of the Dask cluster at" in done.err
    assert done.json["state"] == "switched"
    assert done.json["events"] >= EVENTS
    assert shop.check_version(connection, done.json["to_version"]) >= EVENTS // 10


@pytest.mark.thorough
def test_a_shards_process_that_dies_is_begun_again(carts, engine, connection):
    process = carts.start("rebuild", "--blue-green", "--engine", engine, *SLOW)
    until(lambda: loaded(connection) > 500)
    at_work()[0].kill()
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "a process died" in err
    shop.check_version(connection, 1)


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_they_stop_where_the_rebuild_stops_and_a_worker_that_dies_is_replaced(
    carts, engine, connection, how
):
    process = carts.start("rebuild", "--blue-green", "--engine", engine, *SLOW)
    until(lambda: loaded(connection) > 500)
    process.send_signal(how)
    finish(process)
    assert process.returncode == (5 if how is signal.SIGTERM else -signal.SIGKILL)
    until(lambda: not at_work())
    stood = shards(connection)
    stays(lambda: shards(connection) == stood, 0.5)  # nobody works on
    # The cluster's own process dies while the rebuild is resumed on it.
    resumed = carts.start("rebuild", "--blue-green", "--resume")
    until(lambda: loaded(connection) > sum(each[3] for each in stood))
    at_work()[0].parent().kill()
    _, err = finish(resumed)
    assert resumed.returncode == 0, err
    shop.check_version(connection, 1)


@pytest.mark.parametrize(
    ("engine", "code", "words"),
    [
        ("ray://here", 2, "'ray://here'"),
        ("dask://", 2, "'dask://'"),
        ("dask://127.0.0.1:1", 3, "127.0.0.1:1"),
    ],
)
def test_an_engine_that_is_not_there(carts, connection, engine, code, words):
    carts.patch("from esops.rebuild.load import executors as e\ne._CONNECT_TIMEOUT_SECONDS = 1\n")
    result = carts.run("rebuild", "--blue-green", "--engine", engine)
    assert result.code == code, result.err
    assert words in result.err
    assert connection.execute("SELECT to_regclass('esops.rebuilds')").fetchone() == (None,), (
        "nothing was begun"
    )


@pytest.mark.thorough
def test_a_scheduler_that_is_gone_ends_it_and_it_goes_on_without(carts, connection):
    with local_cluster(workers=1, threads=2) as own:
        scheduler = own.scheduler_address.replace("tcp://", "dask://")
        carts.patch(
            "import esops.rebuild.load.executors as e\ne._SCHEDULER_PATIENCE_SECONDS = 1.0\n"
        )
        process = carts.start(
            "rebuild", "--blue-green", "--engine", scheduler, "--workers", "2", *SLOW
        )
        until(lambda: loaded(connection) > 500)
    _, err = finish(process)
    assert process.returncode == 3, err
    assert "Dask scheduler" in err
    until(lambda: not at_work())
    assert carts.run("rebuild", "--blue-green", "--resume").code == 3, "its address is kept"
    carts.ok("rebuild", "--blue-green", "--resume", "--engine", "local", "--max-rate", "1000000")
    shop.check_version(connection, 1)
