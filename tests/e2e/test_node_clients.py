"""Other people's clients on the node in tests/: what it speaks is the protocol, and not what esops
happens to ask.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.npm import from_npm

SCRIPT = Path(__file__).parent / "node" / "client.mjs"
PACKAGES = {"@eventstore/db-client": "6.2.1", "@kurrent/kurrentdb-client": "1.3.1"}

# tests/contract/test_eventstoredb_node.py has a client of Python.
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.xdist_group("node clients"),  # they share what npm installs
]


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """A folder with both clients from npm."""
    wanted = (f"{name}@{version}" for name, version in PACKAGES.items())
    folder = from_npm(tmp_path_factory.mktemp("node"), *wanted)
    shutil.copy(SCRIPT, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_a_node_client_appends_reads_and_subscribes_unchanged(node, modules, package):
    done = subprocess.run(
        ["node", "client.mjs", package, node.uri],
        cwd=modules,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["wrong"] in ("wrong-expected-version", "WrongExpectedVersionError")
    assert told["missing"] in ("stream-not-found", "StreamNotFoundError")
    assert told["deleted"] in ("stream-not-found", "StreamNotFoundError")
    assert told == {
        **told,
        "next": "2",
        "forwards": [1, 2, 3],
        "backwards": [3, 2],
        "all": [3, 2, 1],
        "subscribed": [1, 2, 3, 4],
        "group": [1, 2, 3, 4],
        "readable": [3, 4],
    }
