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
from tests.support.soak import SOAK
from tests.support.waiting import finish, stays, until

EVENTS = 3_000
# One cluster for all of them: each process that shares the tests would start its own.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dask")]


def local_cluster(**options):
    """Dask is imported by who needs it, not by each process that collects tests."""
    distributed = pytest.importorskip(
        "distributed", reason="Dask is an extra: pip install 'esops[dask]'"
    )
    return distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50, **options
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


def test_the_clusters_workers_make_what_one_process_makes(carts, engine, connection, dsn):
    done = carts.ok("rebuild", "--blue-green", "--engine", engine, "--output", "json")
    assert (done.json["state"], done.json["events"], done.json["rows"]) == (
        "switched",
        EVENTS,
        EVENTS // 10,
    )
    assert "2 processes of the Dask cluster at" in done.err
    shop.check_version(connection, 1)
    # Workers live long: they take the code that is there now, and not what they had before.
    text = (carts.folder / "shop_projections.py").read_text()
    carts.write("shop_projections.py", text.replace('"items": 0', '"items": 1'))
    with shop.Workload() as workload:
        workload.add("writer", dsn, rate=100)
        again = carts.ok(
            "rebuild",
            "--blue-green",
            "--engine",
            engine,
            "--workers",
            "3",
            "--max-diff",
            "100%",
            "--output",
            "json",
        )
        workload.stop()
    assert again.json["verification"]["columns"].keys() == {"items"}
    assert again.json["verification"]["differing"] == again.json["verification"]["rows_blue"]


def test_a_worker_of_the_cluster_that_dies_is_replaced(carts, engine, connection, cluster):
    process = carts.start("rebuild", "--blue-green", "--engine", engine, *SLOW)
    until(lambda: sum(each[3] for each in shards(connection)) > 500)
    victim = at_work()[0].parent()
    victim.kill()
    _, err = finish(process)
    assert process.returncode == 0, err
    shop.check_version(connection, 1)


@pytest.mark.skipif(not SOAK, reason="a long one, for make soak")
def test_a_shards_process_that_dies_is_begun_again(carts, engine, connection):
    process = carts.start("rebuild", "--blue-green", "--engine", engine, *SLOW)
    until(lambda: sum(each[3] for each in shards(connection)) > 500)
    at_work()[0].kill()
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "a process died" in err
    shop.check_version(connection, 1)


@pytest.mark.parametrize("how", [signal.SIGKILL, *([signal.SIGTERM] if SOAK else [])])
def test_they_stop_where_the_rebuild_stops_and_go_on_with_it(carts, engine, connection, how):
    process = carts.start("rebuild", "--blue-green", "--engine", engine, *SLOW)
    until(lambda: sum(each[3] for each in shards(connection)) > 500)
    process.send_signal(how)
    finish(process)
    assert process.returncode == (5 if how is signal.SIGTERM else -signal.SIGKILL)
    until(lambda: not at_work())
    stood = shards(connection)
    stays(lambda: shards(connection) == stood, 0.5)  # nobody works on
    carts.ok("rebuild", "--blue-green", "--resume")
    shop.check_version(connection, 1)


def test_what_stops_a_shard_is_told_here(carts, engine):
    text = (carts.folder / "shop_projections.py").read_text()
    bad = text.replace(
        "    at = event.position[0]\n",
        "    at = event.position[0]\n    assert at != 2321, 'bad luck'\n",
    )
    (carts.folder / "shop_projections.py").write_text(bad)
    result = carts.run("rebuild", "--blue-green", "--engine", engine)
    assert result.code == 6
    assert "position 2321" in result.err
    assert "bad luck" in result.err


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


def test_a_scheduler_that_is_gone_ends_it_and_it_goes_on_without(carts, connection):
    with local_cluster(processes=True) as own:
        scheduler = own.scheduler_address.replace("tcp://", "dask://")
        carts.write(
            "sitecustomize.py",
            "import esops.rebuild.load.executors as e\ne._SCHEDULER_PATIENCE_SECONDS = 1.0\n",
        )
        carts.environment["PYTHONPATH"] = str(carts.folder)
        process = carts.start(
            "rebuild",
            "--blue-green",
            "--engine",
            scheduler,
            "--batch-size",
            "100",
            "--max-rate",
            "1000",
        )
        until(lambda: sum(each[3] for each in shards(connection)) > 500)
    _, err = finish(process)
    assert process.returncode == 3, err
    assert "Dask scheduler" in err
    carts.environment.pop("PYTHONPATH")
    until(lambda: not at_work())
    assert carts.run("rebuild", "--blue-green", "--resume").code == 3, "its address is kept"
    carts.ok("rebuild", "--blue-green", "--resume", "--engine", "local", "--max-rate", "1000000")
    shop.check_version(connection, 1)
