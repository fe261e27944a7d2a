"""What all tests share: databases, nodes, a project's folder with `esops` to run in it."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.browser import browser
from tests.support.databases import connection, dsn, own_server, server
from tests.support.esdb import node, old_node, secure
from tests.support.in_process import forget_modules
from tests.support.project import project, warm
from tests.support.soak import SOAK, rounds

__all__ = [
    "browser",
    "connection",
    "dsn",
    "node",
    "old_node",
    "own_server",
    "project",
    "secure",
    "server",
    "warm",
]

# Some hundred processes are started, and each would compile esops anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Each of them that imports numpy would start threads for it, which wait in a busy loop.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

settings.register_profile(
    "esops",
    max_examples=rounds(50, 100),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("esops")

DUMPS = Path(__file__).parent / "fixtures"


gc.disable()


def pytest_collection_finish():
    """What was imported and collected stays; no collection of garbage need look at it, ever."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config, items):
    """The longest first, so that the processes that share the tests end at about the same time.

    What is marked `thorough` is left out where nothing but folders is named.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    chosen = config.option.markexpr or config.option.keyword or config.getoption("lf", False)
    folders = all(Path(argument).is_dir() for argument in config.args)
    if SOAK or chosen or not folders:
        return
    thorough = [item for item in items if item.get_closest_marker("thorough")]
    items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=thorough)


@pytest.fixture(autouse=True)
def own_code(tmp_path_factory):
    """Modules of a project's folder go with it: the next project's have the same names."""
    yield
    forget_modules(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def dumps():
    """Databases that the real libraries wrote, and what is true of each; see the README there."""
    return DUMPS
