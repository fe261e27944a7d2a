"""Nodes of tests/eventstoredb_server as processes of their own: started, killed, started again, and
given faults.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import httpx
import pytest
import trustme
from esdbclient import EventStoreDBClient

ROOT = Path(__file__).parents[2]


class Nodes:
    """A process with one or more nodes over one storage.

    `options` are those of the server's command line.
    """

    def __init__(self, *options: str, credentials: str = "", query: str = "tls=false") -> None:
        self._options, self._credentials, self._query = options, credentials, query
        self.ports: list[int] = []
        self.start()

    def start(self) -> Nodes:
        """Start, or start again on the same addresses."""
        ports = ["--port", str(self.ports[0]) if self.ports else "0"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.eventstoredb_server", *ports, *self._options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, "the node did not start"
        self.ports = json.loads(line)["ports"]
        return self

    @property
    def uri(self) -> str:
        return self.uri_of(0)

    def uri_of(self, *numbers: int, query: str = "") -> str:
        """A URI that names these nodes."""
        hosts = ",".join(f"localhost:{self.ports[number]}" for number in numbers)
        return f"esdb://{self._credentials}{hosts}?{self._query}{query and '&' + query}"

    def client(self) -> EventStoreDBClient:
        return EventStoreDBClient(self.uri)

    def faults(self, number: int = 0, **faults) -> None:
        """Switch these faults on at a node, and all others off."""
        httpx.put(
            f"http://localhost:{self.ports[number]}/test/faults", json=faults, trust_env=False
        ).raise_for_status()

    def tell(self, what: str, number: int = 0, body: str = "") -> None:
        httpx.post(
            f"http://localhost:{self.ports[number]}/test/{what}", content=body, trust_env=False
        ).raise_for_status()

    def resign(self, number: int) -> None:
        """Let a leader give up its role."""
        httpx.post(
            f"http://localhost:{self.ports[number]}/admin/node/resign", trust_env=False
        ).raise_for_status()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        """Stop gracefully, and start again on the same addresses."""
        self.process.terminate()
        self.process.wait(timeout=10)
        self.start()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.stop()


@pytest.fixture(scope="session")
def node():
    """A node of EventStoreDB (the one in tests/) with the system's projections running, shared by
    the whole run.
    """
    with Nodes() as nodes:
        yield nodes


@pytest.fixture(scope="session")
def old_node():
    """One that behaves like 21.10: no "caught up", a checkpoint past the end of the log, no
    projections running.
    """
    with Nodes("--version", "21.10", "--no-system-projections") as nodes:
        yield nodes


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """A node with TLS, users and rights, and the folder with its certificates. "reader:secret" is a
    user without rights of its own.
    """
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(folder / "node.key"))
    for number, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(str(folder / "node.pem"), append=number > 0)
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    options = ("--certificate", str(folder / "node.pem"), "--key", str(folder / "node.key"))
    with Nodes(
        *options, credentials="admin:changeit@", query=f"tls=true&tlsCaFile={folder / 'ca.pem'}"
    ) as nodes:
        yield nodes, folder
