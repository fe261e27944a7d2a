"""Names that the shell completes: those of esops.toml at once, those of runs and streams in the
time that somebody at a prompt waits.

Completion never writes an error: what cannot be found out is not offered.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from esops.archive_format.runs import Catalog
    from esops.config import Config
    from esops.stores.base import EventStore

Source = Callable[[typer.Context, str], "Generator[str]"]
"""Gives names for a command line and what is typed of the name. It may give others, too."""

MOST_NAMES = 50
"""Names of runs or streams that are offered: nobody reads a longer list at a prompt."""
TIME_LIMIT_SECONDS = 2.0
"""How long a repository or store is asked for names."""


def complete_projection(incomplete: str) -> list[str]:
    """Names of the configuration's projections that start with what is typed."""
    return _starting(incomplete, _sections().get("projections", {}))


def complete_policy(incomplete: str) -> list[str]:
    """Names of the configuration's archive policies that start with what is typed."""
    archives = _sections().get("archives", {}).values()
    return _starting(incomplete, (name for each in archives for name in each.get("policies", {})))


def complete_archive(incomplete: str) -> list[str]:
    """Names of the configuration's archives that start with what is typed."""
    return _starting(incomplete, _sections().get("archives", {}))


def complete_store(incomplete: str) -> list[str]:
    """Names of the configuration's stores that start with what is typed."""
    return _starting(incomplete, _sections().get("stores", {}))


def complete_contract(incomplete: str) -> list[str]:
    """Names of the configuration's contracts that start with what is typed."""
    return _starting(incomplete, _sections().get("contracts", {}))


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """The newest runs of the archive that start with what is typed, the newest first."""
    return _asked(context, incomplete, _runs)


def complete_stream(context: typer.Context, incomplete: str) -> list[str]:
    """Streams of the store, or of all stores where none is named, that start with what is typed."""
    return _asked(context, incomplete, _streams)


def complete_run_stream(context: typer.Context, incomplete: str) -> list[str]:
    """Streams of the run that the command line names, that start with what is typed."""
    return _asked(context, incomplete, _run_streams)


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _sections() -> dict[str, Any]:
    """esops.toml as it is written; empty where there is none, or where it cannot be read."""
    import tomllib

    from esops.config import find_config
    from esops.errors import UsageError

    # Not load_config(): completion must not fail because a variable is not set, and must be quick.
    try:
        return tomllib.loads(find_config(None).read_text(encoding="utf-8"))
    except (UsageError, OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}


# -- names that a repository or a store has to be asked for


class _TimeIsUp(BaseException):
    """Not an Exception: no code on the way, which handles errors of its own, may swallow it."""


def _asked(context: typer.Context, incomplete: str, source: Source) -> list[str]:
    """What `source` gives in the time that there is, at most MOST_NAMES names."""
    found: dict[str, None] = {}
    with (
        contextlib.suppress(Exception, _TimeIsUp),
        _silent(),
        _limited(),
        contextlib.closing(source(context, incomplete)) as names,
    ):
        # One by one: what came before the time was up is offered.
        for name in names:
            if name.startswith(incomplete):
                found[name] = None
            if len(found) == MOST_NAMES:
                break
    return list(found)


def _given(context: typer.Context, name: str) -> Any:
    """An option, which may be at the command, its group or the root."""
    at: Any = context
    while at is not None:
        if at.params.get(name):
            return at.params[name]
        at = at.parent
    return None


def _config(context: typer.Context) -> Config:
    from pathlib import Path

    from esops.config import load_config

    named = _given(context, "config_")
    return load_config(Path(named) if named else None)


def _catalog(context: typer.Context) -> Catalog:
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog

    _, settings = _config(context).archive(_given(context, "archive"))
    return Catalog(Repository(settings))


def _runs(context: typer.Context, incomplete: str) -> Generator[str]:  # noqa: ARG001 - see Source
    # A run's name begins with its time, and somebody at a prompt means one of the last runs.
    yield from reversed(_catalog(context).names())


def _run_streams(context: typer.Context, incomplete: str) -> Generator[str]:  # noqa: ARG001
    run = _catalog(context).run(_given(context, "run"))
    for digest, _ in run.streams(run.manifest()):
        yield digest.stream


def _streams(context: typer.Context, incomplete: str) -> Generator[str]:
    from esops.errors import EsopsError
    from esops.stores import open_store

    config, named = _config(context), _given(context, "store_")
    # `esops trace` has an option of its own, which can be repeated.
    several = context.params.get("stores") or ([named] if named else [])
    if not several or "all" in several:
        several = config.stores
    for name, settings in map(config.store, several):
        # A store that is down does not keep back the names of the others.
        with contextlib.suppress(EsopsError), open_store(name, settings) as store:
            yield from _streams_of(store, incomplete)


def _streams_of(store: EventStore, incomplete: str) -> Generator[str]:
    from esops.events import EventFilter

    if not incomplete:
        # The limit goes to the server, which then need not list all streams.
        yield from (info.name for info in store.streams(limit=MOST_NAMES))
        return
    category, dash, _ = incomplete.partition("-")
    # Where the category is typed, the store need not list the others. In some layouts it is no part
    # of the name: then this finds nothing, and all streams are looked through.
    filters = [EventFilter(category=category)] if dash else []
    for filter in (*filters, EventFilter()):
        any_found = False
        for info in store.streams(filter):
            if info.name.startswith(incomplete):
                any_found = True
                yield info.name
        if any_found:
            return


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise _TimeIsUp in the main thread after TIME_LIMIT_SECONDS.

    The server ends a statement that still runs when this process has ended.
    """
    raised = False

    def end(*_: object) -> None:
        nonlocal raised
        if raised:
            # A store whose thread is busy cannot be closed, and nobody waits for that at a prompt.
            os._exit(0)
        raised = True
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_SECONDS, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let nothing be written to standard error: it would appear in the line that is being typed.

    Logs are sent there first: without a configuration, structlog writes to standard output, and the
    shell would offer its lines as names.
    """
    from esops import term

    term.set_up_logging(term.GlobalOptions(quiet=True))
    # The descriptor, since gRPC writes errors of TLS from C.
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
