"""`esops` run by a process that has imported it already and forks for each command: starting it
takes most of many tests' time.

The child is a process of its own with the arguments, folder, environment and outputs that it was
given; it gets signals and dies as a process does. What starting the installed command really does
is left to tests/e2e and to the tests that ask for it (`project.installed`).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

WITH_THREADS = ("esops.stores.eventstoredb", "esops.demo", "esops.testing")
"""Modules that are left to the child: what they import starts threads, or is not needed."""
MORE = (
    "rich.progress",
    "rich.table",
    "duckdb",
    "pyarrow.parquet",
    "obstore.store",
    "plotly",
    "multiprocessing.popen_fork",
    "multiprocessing.util",
)
"""What commands import when they need it."""
LARGE, COLLAPSE = 2 << 20, 25
"""The bytes of a large page, and Linux' MADV_COLLAPSE."""


class Forked:
    """A command that runs, with the part of subprocess.Popen that tests use."""

    def __init__(self, link: socket.socket, arguments: list[str], out: int, err: int) -> None:
        self._link, self.args = link, arguments
        self.stdout, self.stderr = (
            os.fdopen(out, encoding="utf-8"),
            os.fdopen(err, encoding="utf-8"),
        )
        self.pid = int(link.recv(100))
        self.returncode: int | None = None
        self._signal = signal.SIGKILL
        self._readers: list[threading.Thread] = []
        self._texts = {"stdout": "", "stderr": ""}

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end: what it answers, or that the connection breaks since it was killed."""
        if self.returncode is None:
            # A timeout of 0 would make the socket non-blocking, which says the same by another
            # exception.
            self._link.settimeout(None if timeout is None else max(timeout, 1e-4))
            try:
                answer = self._link.recv(100)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            except ConnectionError:
                answer = b""
            self.returncode = int(answer) if answer else -self._signal
            self._link.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read all that it prints, to its end."""
        began = time.monotonic()

        def left() -> float | None:
            return None if timeout is None else max(timeout - (time.monotonic() - began), 0.0)

        def read(name: str) -> None:
            with getattr(self, name) as stream:
                self._texts[name] = stream.read()

        if not self._readers:
            self._readers = [
                threading.Thread(target=read, args=(name,), daemon=True)
                for name in ("stdout", "stderr")
            ]
            for each in self._readers:
                each.start()
        for each in self._readers:
            each.join(left())
            if each.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(left())
        return self._texts["stdout"], self._texts["stderr"]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            self._signal = signal.Signals(number)
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


running: list[Warm] = []
"""The process that forks for this one's tests, once there is one."""


def module(name: str, *arguments: str) -> Forked | subprocess.Popen:
    """A module of esops as a process of its own, as `python -m` starts it."""
    if running:
        return running[-1].start([*arguments], Path.cwd(), dict(os.environ), name)
    command = [sys.executable, "-m", name, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


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

    def start(
        self,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str],
        module: str = "esops.cli",
    ) -> Forked:
        """Start a command, or what `python -m` does with a module, with pipes for what it
        prints.
        """
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.connect(self._path)
        asked = json.dumps(
            {
                "module": module,
                "arguments": arguments,
                "folder": str(folder),
                "environment": environment,
            }
        ).encode()
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        socket.send_fds(link, [asked], [to_out, to_err])
        os.close(to_out)
        os.close(to_err)
        return Forked(link, arguments, out, err)

    def run(
        self, arguments: list[str], folder: Path, environment: dict[str, str], timeout: float
    ) -> tuple[int, str, str]:
        """Run a command to its end: exit code and what it printed. Raises TimeoutExpired, once it
        was killed.
        """
        process = self.start(arguments, folder, environment)
        try:
            out, err = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode is not None
        return process.returncode, out, err

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


@contextmanager
def without_native_exits() -> Iterator[None]:
    """What is imported here registers nothing for the end of the process that is not of Python:
    DuckDB's bindings would free all that they are made of, page by page, in each child.
    """
    register: Any = atexit.register

    def of_python(function: Any, *arguments: Any, **named: Any) -> Any:
        if function.__module__ is None:
            return function
        return register(function, *arguments, **named)

    atexit.register = of_python
    try:
        yield
    finally:
        atexit.register = register


def load() -> None:
    """Import all of esops, and what its commands need."""
    with without_native_exits():
        load_modules()
    # A thread does not survive a fork, nor does what it holds.
    assert threading.active_count() == 1, threading.enumerate()


def load_modules() -> None:
    import esops

    for module in pkgutil.walk_packages(esops.__path__, "esops."):
        if not module.name.startswith(WITH_THREADS) and not module.name.endswith("__main__"):
            import_module(module.name)
    for name in MORE:
        import_module(name)
    import_module("esops.cli.load").commands()
    # What takes time in each process and is the same in all.
    read_options(import_module("esops.cli.app").whole_command())
    session = import_module("esops.postgres.session")
    for version in (160_000, 180_000):
        for purpose in (session.WORK, session.READ, session.BULK):
            session.set_up(session.ServerFacts(version, True, None), purpose)
    for group in ("esops.stores", "esops.layouts"):
        import_module("esops.plugins").brought(group)
    fork_followers()


def read_options(command: Any) -> None:
    """Make what reads the options of a command and of those below it, by their types."""
    for option in command.params:
        option.get_runtime_param()
    for each in getattr(command, "commands", {}).values():
        read_options(each)


def fork_followers() -> None:
    """`esops run` starts a new interpreter for each version; here each is a fork, too. The spawned
    ones are those of the installed command.
    """
    host = import_module("esops.running.host")
    host.multiprocessing = SimpleNamespace(get_context=lambda _: get_context("fork"))


def use_large_pages() -> None:
    """Move what is in memory to large pages, where the kernel knows how (Linux 6.1).

    A fork copies one entry for each of them instead of 512, and the child's end frees as few.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in maps.read_text().splitlines():
        addresses, rights, _, _, inode, *name = line.split()
        if rights != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue  # a file's, or the stack
        begin, end = (int(each, 16) for each in addresses.split("-"))
        for at in range(-(-begin // LARGE) * LARGE, end - LARGE + 1, LARGE):
            libc.madvise(at, LARGE, COLLAPSE)  # an error leaves the small pages as they are


def serve(path: str) -> None:
    """Fork for each request that comes."""
    load()
    gc.collect()
    gc.freeze()
    use_large_pages()
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
    sys.argv = [asked["module"], *asked["arguments"]]
    code = 0
    try:
        customise(asked["environment"].get("PYTHONPATH", ""))
        if asked["module"] == "esops.cli":
            sys.argv[0] = "esops"
            import_module("esops.cli").main()
        else:
            runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        with suppress(OSError):
            link.send(str(code).encode())
        os._exit(code)


def customise(path: str) -> None:
    """What an interpreter does with PYTHONPATH when it starts, `sitecustomize` of it included."""
    folders = [each for each in path.split(os.pathsep) if each]
    sys.path[:0] = folders
    if any((Path(each) / "sitecustomize.py").exists() for each in folders):
        sys.modules.pop("sitecustomize", None)
        import_module("sitecustomize")


if __name__ == "__main__":
    del sys.path[0]  # this folder, which no command has there
    serve(sys.argv[1])
