"""What an operator asks of work under way, where that makes a difference.

`esops.running.control` keeps the requests. Here it is known whether anything works on a projection:
a request that cannot be met is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import psycopg

from esops.config import Config
from esops.errors import UsageError
from esops.postgres.connection import connect, translated
from esops.projections.definition import load_definition
from esops.projections.fingerprint import Code
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.rebuild.abortable import changed_nothing
from esops.rebuild.journal import JournalEntry
from esops.rebuild.under_way import Affected, affected, let_through
from esops.running import control
from esops.running.control import ControlRequest


def pause(config: Config, name: str) -> tuple[ControlRequest, Affected]:
    """Let work on a projection wait; returns what is asked for, and what works on it.

    The request also holds for work that begins later.
    """
    return _ask(config, name, paused=True)


def throttle(
    config: Config, name: str, limits: Mapping[str, float | None]
) -> tuple[ControlRequest, Affected]:
    """Change the limits of work on a projection, None lifting one; returns as `pause` does. Nothing
    given is no change.
    """
    if not limits:
        with _connected(config, name) as connection:
            return control.requested(connection, name), affected(connection, name)
    return _ask(config, name, limits=dict(limits))


def postpone(config: Config, name: str) -> tuple[ControlRequest, bool]:
    """Let a rebuild keep up without switching; returns what is asked for, and whether a rebuild is
    unfinished.
    """
    now, works = _ask(config, name, postponed=True, switch_now=False)
    return now, works.rebuild is not None


def resume(config: Config, name: str) -> ControlRequest:
    """Let work that was paused continue. Raises UsageError where nothing was paused."""
    with _connected(config, name) as connection:
        if not control.requested(connection, name).paused:
            raise UsageError(
                f"{name} is not paused",
                hint="A rebuild that was stopped is continued by `esops rebuild "
                f"{name} --blue-green --resume`; `esops status` shows it.",
            )
        return control.request(connection, name, paused=False)


def switch_now(config: Config, name: str) -> tuple[ControlRequest, bool]:
    """Let an unfinished rebuild switch, or withdraw a postponement that was meant for the next one;
    returns as `postpone` does. Raises UsageError where there is neither.
    """
    with _connected(config, name) as connection:
        works = affected(connection, name).rebuild is not None
        if not works and not control.requested(connection, name).postponed:
            raise UsageError(
                f"no rebuild of {name} is unfinished, so there is nothing to switch",
                hint=f"To serve a version that stands by: esops projection switch {name}",
            )
        return control.request(connection, name, postponed=False, switch_now=works), works


def preview(config: Config, name: str, action: Literal["resume", "abort"]) -> dict[str, Any]:
    """What resuming or aborting the unfinished rebuild of a projection would do. Changes nothing.

    Raises UsageError where there is none.
    """
    with _connected(config, name) as connection:
        entry = journal.latest(connection, name)
        if entry is None or not _to_be(action, connection, entry):
            raise UsageError(f"{name} has no unfinished rebuild to {action}")
        green = registry.version(connection, name, entry.to_version)
        in_place = bool(entry.options.get("in_place"))
        state = entry.resume_state or entry.state
        under_way = action == "resume" and entry.finished_at is None
        changed = under_way and _code_changed(config, connection, entry, green)
        drops = _dropped(config, connection, entry, green) if action == "abort" else []
        return {
            "projection": name,
            "rebuild": entry.rebuild,
            "action": action,
            "in_place": in_place,
            "state": state,
            "reason": entry.reason,
            "max_diff": let_through(entry),
            "position": None if green.position is None else str(green.position),
            "code_changed": changed,
            "begins_again": changed and in_place and entry.options.get("ranges") is None,
            "drops": drops,
            "possible": action == "resume" or not in_place or changed_nothing(connection, entry),
        }


def _dropped(
    config: Config, connection: psycopg.Connection, entry: JournalEntry, green: Version
) -> list[str]:
    """The tables that are dropped when a rebuild is aborted."""
    built: Version | None = green
    if entry.options.get("in_place"):
        known = registry.versions(connection, green.projection)
        scratch = entry.options.get("scratch")
        built = next((each for each in known if each.version == scratch), None)
    elif config.projection(green.projection).kind == "external":
        built = None
    return [] if built is None else [".".join(each) for each in built.tables.values()]


def _to_be(action: str, connection: psycopg.Connection, entry: JournalEntry) -> bool:
    """Whether something is left of a rebuild: its steps, or the hook after its switch."""
    if entry.finished_at is None:
        return True
    return action == "resume" and journal.owes_hook(connection, entry.rebuild)


def _code_changed(
    config: Config, connection: psycopg.Connection, entry: JournalEntry, green: Version
) -> bool:
    """Whether the rows of an unfinished rebuild so far were made by other code than there is now.

    Those of ranges are made in a version of their own.
    """
    name = green.projection
    settings = config.projection(name)
    where = f"{config.path}: projections.{name}"
    code = Code(load_definition(settings, config.directory, where), settings, config.directory)
    number = entry.options.get("scratch") if entry.options.get("ranges") else green.version
    known = registry.versions(connection, name)
    made = next((each for each in known if each.version == number), None)
    return made is not None and not code.made(made.fingerprint)


def _ask(config: Config, name: str, **changed: Any) -> tuple[ControlRequest, Affected]:
    with _connected(config, name) as connection:
        works = affected(connection, name)
        return control.request(connection, name, **changed), works


@contextmanager
def _connected(config: Config, name: str) -> Iterator[psycopg.Connection]:
    control.check_controllable(config, name)
    with translated(), connect(config.readmodel_of(name).dsn, f"control {name}") as connection:
        yield connection
