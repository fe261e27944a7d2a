"""`esops` run by a process that has imported it already and forks for each command: starting it
takes most of many tests' time.

The child is a process of its own with the arguments, folder, environment and outputs that it was
given, and ends as a process ends. What
starting it really does is left to the tests that start the installed command: those in e2e, and all
that kill one.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

IMPORTED = (
    "esops.archive.run",
    "esops.audit.streams",
    "esops.stores.archive.store",
    "esops.stores.postgres.store",
    "esops.cli.rebuild_jobs",
    "esops.health.doctor",
    "esops.projections.projector",
    "esops.rebuild.steps",
    "esops.rebuild.load.shared_read",
    "esops.term",
    "esops.trace.search",
    "rich.progress",
    "rich.table",
)
"""Nothing that starts a thread."""


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Warm:
    """The process that forks."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="esops-warm-")
        self._path = f"{self._folder.name}/s"
        # One thread for numerical libraries: a pool of them does not survive a fork.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._path], env=environment, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def run(
        self, arguments: list[str], folder: Path, environment: dict[str, str], timeout: float
    ) -> Done:
        """Run a command to its end. Raises TimeoutExpired, once it was killed."""
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link,
        ):
            link.connect(self._path)
            asked = json.dumps(
                {"arguments": arguments, "folder": str(folder), "environment": environment}
            ).encode()
            socket.send_fds(link, [asked], [out.fileno(), err.fileno()])
            pid = int(link.recv(100))
            link.settimeout(timeout)
            try:
                code = int(link.recv(100) or -signal.SIGKILL)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
            return Done(code, *texts)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def serve(path: str) -> None:
    """Fork for each request that comes."""
    for name in IMPORTED:
        import_module(name)
    import_module("esops.cli.load").commands()
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(16)
        print("ready", flush=True)
        while True:
            link, _ = listener.accept()
            asked, fds, _, _ = socket.recv_fds(link, 1 << 18, 2)
            if os.fork() == 0:
                listener.close()
                become(link, json.loads(asked), *fds)
            link.close()
            for each in fds:
                os.close(each)


def become(link: socket.socket, asked: dict, out: int, err: int) -> None:
    """Be the command that was asked for, to its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    link.send(str(os.getpid()).encode())
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, to in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(fd, to)
        os.close(fd)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["esops", *asked["arguments"]]
    code = 0
    try:
        import_module("esops.cli").main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        threading._shutdown()
        import_module("atexit")._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        link.send(str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    del sys.path[0]  # this folder, which no command has there
    serve(sys.argv[1])
