"""Sends notifications beside the work, in order, one thread for each section of [notify]."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from esops.notifying.delivery import NotDelivered, deliver
from esops.notifying.notification import Notification
from esops.settings.notify import NotifySettings

log = structlog.get_logger("esops.notify")
PATIENCE = 5.0
"""Seconds that the end of a command waits for deliveries."""
_MOST_WAITING = 100


class Notifier:
    """Tells whoever the configuration names. Nothing here raises, and `send` never waits."""

    def __init__(self, sections: Mapping[str, NotifySettings], folder: Path) -> None:
        """`folder` is where programs are run."""
        self._sections = [_Section(name, settings, folder) for name, settings in sections.items()]

    def send(self, notification: Notification) -> None:
        """Tell those who asked for it."""
        for section in self._sections:
            if notification.is_for(section.settings):
                section.send(notification)

    def close(self) -> None:
        """Wait a few seconds for what is not delivered yet, and give it up then."""
        deadline = time.monotonic() + PATIENCE
        for section in self._sections:
            section.end()
        for section in self._sections:
            section.join(deadline)


class _Section:
    """One section, with a thread that is started by the first notification for it."""

    def __init__(self, name: str, settings: NotifySettings, folder: Path) -> None:
        self.name, self.settings, self._folder = name, settings, folder
        self._waiting: queue.Queue[Notification | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None

    def send(self, notification: Notification) -> None:
        if self._thread is None:
            # A daemon: the process ends without it, however long an answer takes.
            self._thread = threading.Thread(target=self._work, name="esops-notify", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(notification)
        except queue.Full:
            self._warn("too many others wait to be delivered")

    def end(self) -> None:
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                self._waiting.get_nowait()
                self._waiting.put_nowait(None)

    def join(self, deadline: float) -> None:
        if self._thread is None:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"it was not delivered within {PATIENCE:g} s")

    def _work(self) -> None:
        while (notification := self._waiting.get()) is not None:
            try:
                deliver(self.settings, self._folder, notification)
            except NotDelivered as error:
                self._warn(str(error))
            except Exception as error:  # noqa: BLE001 - a defect here must not end anything
                self._warn(type(error).__name__)

    def _warn(self, reason: str) -> None:
        log.warning(
            "a notification was not delivered", section=f"notify.{self.name}", reason=reason
        )
