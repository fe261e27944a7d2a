"""Sends how a command ended, as the sections [notify.NAME] of the configuration say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esops.actions.action import Action
    from esops.actions.recording import ActionRecord
    from esops.notifying.notification import Notification

_FOUND = ("finding", "failure", "refusal")


def notify(context: Any, record: ActionRecord, exit_code: int, *, looks: bool) -> None:
    """Tell how a command ended. `looks`: it only looks, so nothing is sent where a person at the
    terminal sees the result, or where nothing was found.
    """
    follows = _follows(context)
    notification = notification_of(record.action, exit_code, follows=follows)
    if notification is None or (looks and notification.kind not in _FOUND):
        return
    if notification.kind == "stop" and not (record.began or follows):
        return  # a question that was answered with no
    from esops.cli.recorded import config_of
    from esops.cli.shared import is_interactive
    from esops.errors import EsopsError

    if looks and is_interactive():
        return
    try:
        config = config_of(context)
    except EsopsError:
        return  # the command said so
    if not config.notify:
        return
    from esops.notifying.notifier import Notifier

    notifier = Notifier(config.notify, config.directory)
    notifier.send(notification)
    notifier.close()


def notification_of(action: Action, exit_code: int, *, follows: bool) -> Notification | None:
    """What is sent at an action's end; None of a wrong command line. `follows`: it works until it
    is stopped, so that its end is a stop.
    """
    from datetime import UTC, datetime

    from esops.actions.action import result_of
    from esops.notifying.notification import KINDS, Notification

    kind = KINDS.get(exit_code)
    if kind is None:
        return None
    result = result_of(exit_code)
    if follows and exit_code == 0:
        kind, result = "stop", "stopped"
    seconds = (datetime.now(UTC) - action.at).total_seconds()
    what = f"esops {action.command}{f' {action.subject}' if action.subject else ''}"
    return Notification(
        kind,
        f"{what}: {result} ({action.os_user} on {action.host}, {seconds:.0f} s)",
        action.projections,
        {
            "command": action.command,
            "subject": action.subject,
            "result": result,
            "exit_code": exit_code,
            "who": action.os_user,
            "began_at": action.at.isoformat(),
            "seconds": round(seconds, 1),
            "action": action.id,
        },
        host=action.host,
    )


def _follows(context: Any) -> bool:
    return bool(
        context.command_path.endswith(" run") and context.params.get("until_caught_up") is False
    )
