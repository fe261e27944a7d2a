"""Which commands are recorded (esops history), and what of their arguments may be written down.

Nothing that may be a person's value, a key or an address: of the options, flags and numbers are
written, and texts of a few options whose values are words of esops; the others only by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from esops.actions.action import Action
    from esops.actions.recording import ActionRecord
    from esops.cli.global_options import GivenGlobals
    from esops.config import Config

_Values = Mapping[str, Any]


class RecordedCommand(NamedTuple):
    """How a command is recorded."""

    names: Sequence[str] = ("name",)
    """Its parameters that name what it works on."""
    when: Callable[[_Values], bool] = lambda _: True
    """Whether it writes, with these values."""
    projections: bool = True
    """Whether these are projections."""


_NAME = RecordedCommand()
RECORDED: Mapping[str, RecordedCommand] = {
    "rebuild": RecordedCommand(("projections",)),
    "run": RecordedCommand(("projections",)),
    "erase": RecordedCommand((), projections=False),
    "uninstall": RecordedCommand((), projections=False),
    "projection switch": _NAME,
    "projection rollback": _NAME,
    "projection retire": _NAME,
    "projection rename": RecordedCommand(("old", "new")),
    "projection finish": _NAME,
    "projection recover": _NAME,
    "projection pause": _NAME,
    "projection resume": _NAME,
    "projection throttle": _NAME,
    "projection postpone": _NAME,
    "projection switch-now": _NAME,
    "projection dead-letters": RecordedCommand(when=lambda given: given.get("action") != "list"),
    "projection check": RecordedCommand(when=lambda given: bool(given.get("heal"))),
    "archive run": RecordedCommand(("policy",), projections=False),
    "archive restore": RecordedCommand(("run",), projections=False),
    "archive gc": RecordedCommand(("archive",), projections=False),
}
"""By the command's name, without `esops`."""
_WORDS = frozenset(
    {"action", "archive", "compare", "engine", "into", "longest_session", "max_dead_letters"}
    | {"max_diff", "max_duration", "older_than", "remove", "retire_after", "sample"}
    | {"snapshot_wait", "workers"}
)
"""Parameters whose texts are words, numbers or names of the configuration."""
_ADDRESS = re.compile("[:/@?]")
"""What is an address, as that of a Dask scheduler, which may have a password, or was meant as one.
"""
_UNSAID = frozenset({"yes", "dry_run"})


_LOOKS = {
    "doctor": RecordedCommand(
        (), lambda given: not given.get("grants") and not given.get("notify"), projections=False
    ),
    "audit streams": RecordedCommand((), projections=False),
    "archive verify": RecordedCommand(("run",), projections=False),
    "projection check": _NAME,
    "schema check": RecordedCommand((), projections=False),
    "schema decode": RecordedCommand((), projections=False),
    "schema contracts check": RecordedCommand((), projections=False),
}
"""Commands that only look: what they find is told where a timer runs them, and not recorded."""


@contextmanager
def recorded(context: Any) -> Iterator[ActionRecord | None]:
    """Record the command of a context where it is one that writes, and tell how it ended whoever
    [notify] names.
    """
    path = context.command_path.partition(" ")[2]
    given = context.params
    how = RECORDED.get(path)
    writes = how is not None and how.when(given)
    if not writes:
        how = _LOOKS.get(path)
    if how is None or given.get("dry_run") or not (writes or how.when(given)):
        yield None
        return
    from esops.actions import current
    from esops.actions.recording import ActionRecord

    action = _action(context, path, how)
    record = ActionRecord(action)
    exit_code = 70
    try:
        with current.recorded(record) if writes else nullcontext():
            yield record
        exit_code = record.exit_code
    except BaseException as error:
        exit_code = current.code_of(error)
        raise
    finally:
        from esops.cli.notified import notify

        notify(context, record, exit_code, looks=not writes)


@contextmanager
def refusals(context: Any, record: ActionRecord | None) -> Iterator[None]:
    """Record what is refused before it has written anything."""
    if record is None:
        yield
        return
    from esops.errors import Refused

    try:
        yield
    except Refused:
        _record_refusal(context, record)
        raise


def _action(context: Any, path: str, how: RecordedCommand) -> Action:
    from esops.actions.action import Action

    given = context.params
    names = [each for name in how.names for each in _listed(given.get(name))]
    action = Action(
        f"{path} {given['action']}" if "action" in given else path,
        subject=(" to " if path == "projection rename" else ", ").join(names),
        projections=tuple(names) if how.projections else (),
        options=" ".join(_options(context, how)),
    )
    if path == "erase":
        action.subject = _store(context)
    return action


def exit_code_of(result: object) -> int:
    """The exit code of what a command's function returned."""
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _record_refusal(context: Any, record: ActionRecord) -> None:
    """Record what was refused before it wrote anything."""
    from esops.actions import current
    from esops.config import by_address
    from esops.errors import EsopsError

    if record.began:
        return
    try:
        config = config_of(context)
        known = [each for each in record.action.projections if each in config.projections]
        current.in_databases(by_address(config, known), upgrade=False)
    except EsopsError:
        return  # one inside a store, which has no database


def _options(context: Any, how: RecordedCommand) -> Iterator[str]:
    for parameter in context.command.params:
        name, value = parameter.name, context.params.get(parameter.name)
        said = {*how.names, *_UNSAID, *({"action"} if "action" in context.params else ())}
        if name in said or value in (None, False, (), []) or value == parameter.default:
            continue
        option = max(parameter.opts, key=len)
        if value is True:
            yield option
        elif isinstance(value, int | float):
            yield f"{option} {value:g}"
        elif name in _WORDS and isinstance(value, str):
            yield f"{option} {value if _ADDRESS.search(value) is None else '…'}"
        elif option.startswith("-"):
            yield f"{option} …"


def _listed(value: object) -> list[str]:
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]


def _store(context: Any) -> str:
    """The store that is meant, by its name in the configuration."""
    from esops.errors import EsopsError

    try:
        config = config_of(context)
        return f"store {config.store(_globals(context).store_)[0]}"
    except EsopsError:  # the command says the same
        return ""


def config_of(context: Any) -> Config:
    """The configuration of a command. Raises UsageError."""
    from esops.config import load_config

    path = _globals(context).config_
    return load_config(Path(path) if path else None)


def _globals(context: Any) -> GivenGlobals:
    from esops.cli.global_options import global_values

    return global_values(context)
