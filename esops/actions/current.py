"""The action that this process is at, for the jobs: they say where they are about to write.

    action = Action("projection switch", "cart_summary", ("cart_summary",))
    with current.recorded(ActionRecord(action)) as record:
        …                       # whatever this writes is recorded where it writes
        record.exit_code = 1

A process does one action at a time, or records none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from esops.actions.recording import ActionRecord
from esops.config import Config
from esops.errors import EsopsError
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations

# What archives and other stores need is imported where one of them is written to: Arrow, Parquet
# and the clients of object stores take a third of a command's start, and most actions are recorded
# in a database.
if TYPE_CHECKING:
    from esops.archive_format.repository import Repository

log = structlog.get_logger("esops.actions")
_current: list[ActionRecord] = []


@contextmanager
def recorded(record: ActionRecord) -> Iterator[ActionRecord]:
    """Record an action while the context is open; it ends with `exit_code`, or with that of the
    error that leaves the context.
    """
    _current.append(record)
    migrations.before_writing.append(record.in_database)
    exit_code = 70
    try:
        yield record
        exit_code = record.exit_code
    except BaseException as error:
        exit_code = code_of(error)
        raise
    finally:
        migrations.before_writing.remove(record.in_database)
        _current.remove(record)
        record.end(exit_code)


def in_databases(addresses: Iterable[str], *, upgrade: bool = True) -> bool:
    """The action of this process concerns these databases, and does not write there itself: it
    leaves that to other processes, or was refused. Returns False where one of them cannot be
    reached, or has no tables of esops' own yet, so that it has to be called again.

    Without `upgrade`, tables that an older esops made are left as they are.
    """
    everywhere = True
    for dsn in addresses if _current else ():
        try:
            with translated(), connect(dsn, "history") as connection:
                if not migrations.installed(connection):
                    everywhere = False
                elif upgrade or migrations.schema_number(connection) == migrations.newest():
                    migrations.upgrade(connection)
        except EsopsError:
            everywhere = False  # those who write say the same
    return everywhere


def in_archive(repository: Repository) -> None:
    """The action of this process is about to write into an archive."""
    from esops.actions.in_archives import ArchivePlace

    for record in _current:
        make = partial(ArchivePlace, record.action, repository)
        record.begin_at(("archive", repository.address), make)


def in_store(config: Config, projection: str) -> None:
    """The action of this process is about to change a projection that runs inside a store."""
    from esops.actions.in_stores import StreamPlace

    name, settings = config.store(config.projection(projection).store)
    for record in _current:
        make = partial(StreamPlace, record.action, name, settings.without_archive)
        record.begin_at(("store", name), make)


def in_all_archives(config: Config) -> None:
    """The action of this process is recorded in the archives of the configuration, for want of a
    better place.
    """
    if not config.archives:
        return
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import RUNS

    for settings in config.archives.values():
        with suppress(EsopsError):
            repository = Repository(settings)
            # An action in a folder that is no archive would make it look like one.
            if repository.folders(RUNS):
                in_archive(repository)


def of_store(config: Config, store: str) -> None:
    """The action of this process is about to change events of a store, and perhaps rows: record it
    in the store's database and those of its read models where esops has tables, else in the
    archives; and say so where there is no place.
    """
    addresses = {
        config.readmodel_of(name).dsn: None
        for name, each in config.projections.items()
        if each.kind != "server" and config.store(each.store)[0] == store
    }
    if (own := config.stores[store].postgres) is not None:
        addresses[own] = None
    in_databases(addresses)
    if not any(each.is_written for each in _current):
        in_all_archives(config)
    if _current and not any(each.is_written for each in _current):
        log.warning("esops history will not show this: esops has no tables here, and no archive")


def concerns(*projections: str) -> None:
    """The action of this process works on these projections."""
    for record in _current:
        for each in projections:
            record.concern(each)


def code_of(error: BaseException) -> int:
    """The exit code of what a command raised."""
    if isinstance(error, EsopsError):
        return error.exit_code
    name, code = type(error).__name__, getattr(error, "exit_code", None)
    if name in ("Abort", "KeyboardInterrupt"):
        return 5
    if isinstance(code, int):  # typer's: the end of a command, or a wrong command line
        return code if name == "Exit" or code != 1 else 2
    return 3 if type(error).__module__.startswith("psycopg") else 70
