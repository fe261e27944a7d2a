"""`esops` run in this process: what a command does, without a process for it.

A fork costs 0.03 s of CPU, and each child then makes anew what its parent has: half of what a small
command takes. So where a test's subject is what a command does, and not what becomes of its
process, it runs here (see `INSIDE` in project.py). It has its own arguments, folder, environment
and standard streams, by their descriptors, and it finds nothing of what the one before it kept in
memory.
"""

from __future__ import annotations

import contextvars
import gc
import importlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

OWN_PROCESS = {"run", "serve", "mcp", "demo"}
"""Commands that start processes, wait for signals or serve: they are processes themselves."""
AT_START = ("PYTHON", "LC_", "LANG", "TZ", "MALLOC")
"""What an interpreter reads from its environment only when it starts."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def possible(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether this command can run here, with what a test adds to its environment."""
    return (
        not OWN_PROCESS.intersection(arguments[:1])
        and not any(name.startswith(AT_START) for name in environment)
        and threading.current_thread() is threading.main_thread()
    )


def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> tuple[int, str, str]:
    """Run a command to its end: exit code and what it printed. Nothing ends it where it hangs but
    the test's own timeout.
    """
    forget(folder)
    with ExitStack() as stack:
        read = stack.enter_context(_streams())
        stack.enter_context(_settings(arguments, folder, environment))
        code = contextvars.copy_context().run(_main, list(arguments))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        out, err = read()
    forget(folder)
    # A connection in a cycle would keep its locks, which the end of a process releases.
    gc.collect(1)
    return code, out, err


def _main(arguments: list[str]) -> int:
    try:
        importlib.import_module("esops.cli").main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _streams() -> Iterator[Callable[[], tuple[str, str]]]:
    """What is written to the descriptors 1 and 2, by whomever, is kept; there is nothing to read."""
    before = sys.stdin, sys.stdout, sys.stderr
    kept = [os.memfd_create("stdout"), os.memfd_create("stderr")]
    saved = [os.dup(1), os.dup(2)]

    def read() -> tuple[str, str]:
        texts = []
        for file in kept:
            os.lseek(file, 0, os.SEEK_SET)
            with open(file, encoding="utf-8", closefd=False) as stream:
                texts.append(stream.read())
        return texts[0], texts[1]

    try:
        for number, file in enumerate(kept, 1):
            os.dup2(file, number)
        with (
            open(os.devnull, encoding="utf-8") as sys.stdin,
            open(1, "w", encoding="utf-8", closefd=False) as sys.stdout,
            open(2, "w", 1, "utf-8", "backslashreplace", closefd=False) as sys.stderr,
        ):
            yield read
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        for number, file in enumerate(saved, 1):
            os.dup2(file, number)
        for file in (*kept, *saved):
            os.close(file)


@contextmanager
def _settings(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """The command's arguments, folder and environment; afterwards the process's own ones again, and
    its signals, paths, warnings and way of collecting garbage.
    """
    before: dict[str, Any] = {"argv": sys.argv, "path": [*sys.path]}
    environ, directory = dict(os.environ), Path.cwd()
    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    threshold, freeze = gc.get_threshold(), gc.freeze
    # What a command leaves to the end of its process would never be freed here.
    gc.freeze = lambda: None
    sys.argv = ["esops", *arguments]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        with warnings.catch_warnings():
            # Pytest makes errors of them, an interpreter does not.
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(directory)
        sys.argv, sys.path[:] = before["argv"], before["path"]
        gc.freeze = freeze
        gc.set_threshold(*threshold)
        for each, handler in handlers.items():
            signal.signal(each, handler)


def forget(folder: Path) -> None:
    """Forget what a process keeps for its life: a project's modules, what is known of their code and
    of servers.
    """
    forget_modules(folder)
    for name in [each for each in sys.modules if each.startswith("esops.projections.")]:
        for kept in list(vars(sys.modules[name]).values()):
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()
    importlib.invalidate_caches()
    for name, attributes in KEPT.items():
        for attribute in attributes if name in sys.modules else ():
            getattr(sys.modules[name], attribute).clear()


def forget_modules(folder: Path) -> None:
    """Forget the modules that were imported from a folder."""
    for name in sys.modules.keys() - _steady:
        file = str(getattr(sys.modules[name], "__file__", None) or "")
        if file.startswith(f"{folder}{os.sep}"):
            del sys.modules[name]
        elif file.startswith(_STEADY):
            _steady.add(name)


_ROOT = Path(__file__).parents[2]
_STEADY = tuple(
    f"{each}{os.sep}" for each in (sys.prefix, sys.base_prefix, _ROOT / "esops", _ROOT / "tests")
)
_steady: set[str] = set()
"""Modules of the interpreter, of packages, of esops and of its tests: thousands, looked at once."""
KEPT = {
    "esops.projections.arithmetic": ("_known", "_set_by"),
    "esops.postgres.connection": ("_servers", "_pooled", "_services"),
    "esops.projections.other_process": ("_known",),
    "esops.projections.python_code": ("_known",),
}
