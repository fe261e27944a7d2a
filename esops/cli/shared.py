"""What several commands need: a stop flag for signals, durations, progress."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from esops.signalled import SignalledEvent

if TYPE_CHECKING:
    from datetime import timedelta

    from esops.config import Config
    from esops.term import Output, ProgressLine


def stop_on_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set. A second SIGINT interrupts at once."""
    asked = SignalledEvent()

    def ask(number: int, _: object) -> None:
        # A second Ctrl-C says: do not wait until the work has ended in order.
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked


def duration(option: str, text: str) -> timedelta:
    """Read the duration that an option was given. Raises UsageError that names the option."""
    from esops.settings import named_duration

    return named_duration(option, text)


def duration_if_given(option: str, text: str | None) -> timedelta | None:
    """The same of an option without a default."""
    return None if text is None else duration(option, text)


def is_interactive() -> bool:
    """Whether a person can be asked."""
    import sys

    # Not stdout: `esops rebuild … > plan.txt` can still ask, on stderr.
    return sys.stdin.isatty() and sys.stderr.isatty()


@contextmanager
def archived_streams_named(config: Config, *, exit_code: int = 2) -> Iterator[None]:
    """Where a stream is not there, say that it was archived, if it was, and how to read it.
    `exit_code`: 1 where a command looks for it, rather than needs it.
    """
    from esops.errors import NoStream, NothingFound

    try:
        yield
    except NoStream as error:
        from esops.stores.archive.whereabouts import archived_stream

        found = archived_stream(config, error)
        if exit_code == NothingFound.exit_code:
            found = NothingFound(found.message, hint=found.hint)
        raise found from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let the first Ctrl-C, and SIGTERM, end a question: nothing has begun that would have to be
    ended in order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        for each in handlers:
            signal.signal(each, signal.default_int_handler)
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def confirm(question: str, *, yes: bool, what: str, hint: str = "Add --yes.") -> None:
    """Ask, unless `yes`. Without a person to ask, demand --yes: `what` says what needs it.

    Raises Stopped where the answer is no, and UsageError.
    """
    from esops.errors import Stopped, UsageError

    if yes:
        return
    if not is_interactive():
        raise UsageError(f"{what}, and needs a confirmation", hint=hint)
    try:
        with _interruptible():
            agreed = typer.confirm(question, err=True)
    except (typer.Abort, KeyboardInterrupt):
        agreed = False
    if not agreed:
        raise Stopped("nothing was changed: the question was not answered with yes")


class JobProgress:
    """The progress of a job of several parts: one progress line after the other."""

    def __init__(self, output: Output) -> None:
        """Show nothing yet."""
        self._output = output
        self._what = ""
        self._line: ProgressLine | None = None

    def update(self, what: str, done: int, total: int | None) -> None:
        """Show how much is done, and of how much; `what` names the part and what is counted."""
        if what != self._what:
            self.close()
            self._what, self._line = what, self._output.progress(what, 0, total)
        if self._line is not None:
            self._line.update(done, total)

    def close(self) -> None:
        """Remove the line."""
        if self._line is not None:
            self._line.close()
            self._line = None
