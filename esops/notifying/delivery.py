"""The ways to deliver a notification. Each raises NotDelivered with a reason that names no address:
that of a webhook is as good as a password.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from esops.notifying.notification import Notification
from esops.settings.notify import NotifySettings

T = TypeVar("T")
LIMIT = 4.0
"""Seconds that one delivery may take."""
NO_APPRISE = "the apprise library is not installed: pip install 'esops[apprise]'"


class NotDelivered(Exception):
    """Why a notification did not arrive."""


def deliver(settings: NotifySettings, folder: Path, notification: Notification) -> None:
    """Deliver a notification the way that a section names. Raises NotDelivered."""
    if settings.webhook is not None:
        _post(settings.webhook, notification.body(settings.format))
    elif settings.command:
        _run(settings.command, folder, notification)
    elif settings.apprise is not None:
        _apprise(settings.apprise, notification)


def problem_of(settings: NotifySettings, folder: Path) -> str | None:
    """Why a section could not tell anybody, without trying it; None where nothing is wrong."""
    if settings.command:
        # As it is run, from the folder of the configuration.
        program = settings.command[0]
        # A name without a slash is looked up in PATH alone.
        found = shutil.which(program) or ("/" in program and os.access(folder / program, os.X_OK))
        return None if found else f"there is no program {settings.command[0]!r} that can be run"
    if settings.apprise is not None:
        try:
            _apprise_of(settings.apprise)
        except NotDelivered as error:
            return str(error)
    return None


def _post(address: str, body: bytes) -> None:
    import httpx

    # It logs each request with its address.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    streams: list[Any] = []

    def note(event: str, info: dict[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            streams.append(info["return_value"])

    def post() -> int:
        # The answer's body, which may have no end, is not read.
        with (
            httpx.Client(timeout=LIMIT) as client,
            client.stream(
                "POST",
                address,
                content=body,
                headers={"Content-Type": "application/json"},
                extensions={"trace": note},
            ) as answer,
        ):
            return answer.status_code

    try:
        status = _within(LIMIT, post)
    except httpx.ConnectError:
        raise NotDelivered("the webhook cannot be reached") from None
    except (TimeoutError, httpx.TimeoutException):
        for each in streams:
            with suppress(Exception):  # ends the thread that still listens
                each.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        raise NotDelivered(f"the webhook has not answered within {LIMIT:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise NotDelivered(f"the webhook cannot be called ({type(error).__name__})") from None
    if not 200 <= status < 300:
        raise NotDelivered(f"the webhook answered with status {status}")


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises; TimeoutError where it takes longer in all. The timeouts of a
    library are for each read, and who sends a byte a second is never late.
    """
    found: Future[T] = Future()

    def work() -> None:
        try:
            found.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            found.set_exception(error)

    # Not a pool's, for whose threads the process would wait.
    threading.Thread(target=work, name="esops-delivery", daemon=True).start()
    try:
        return found.result(seconds)
    except FutureTimeout:
        raise TimeoutError from None


def _run(command: tuple[str, ...], folder: Path, notification: Notification) -> None:
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own program, without a shell
            list(command),
            cwd=folder,
            env={**os.environ, **notification.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A group of its own, so that what a shell has started ends with it.
            start_new_session=True,
        )
        with process:
            try:
                process.communicate(json.dumps(notification.as_dict()).encode(), timeout=LIMIT)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        code = process.returncode
    except subprocess.TimeoutExpired:
        raise NotDelivered(f"the program took longer than {LIMIT:g} s and was killed") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise NotDelivered(f"the program cannot be run: {reason}") from None
    if code:
        raise NotDelivered(f"the program ended with exit code {code}")


def _apprise(address: str, notification: Notification) -> None:
    notify = _apprise_of(address)
    try:
        delivered = _within(LIMIT, lambda: notify(body=notification.text, title="esops"))
    except TimeoutError:
        raise NotDelivered(f"apprise has not ended within {LIMIT:g} s") from None
    except Exception as error:  # noqa: BLE001 - any of its plug-ins' own
        raise NotDelivered(f"apprise failed ({type(error).__name__})") from None
    if not delivered:
        raise NotDelivered("apprise could not deliver it")


def _apprise_of(address: str) -> Callable[..., Any]:
    try:
        import apprise
    except ImportError:
        raise NotDelivered(NO_APPRISE) from None
    # It logs addresses.
    logging.getLogger("apprise").disabled = True
    one = apprise.Apprise()
    if not one.add(address):
        raise NotDelivered("apprise does not understand the address")
    notify: Callable[..., Any] = one.notify
    return notify
