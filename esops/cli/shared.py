"""What several commands need: a stop flag for signals, and completion of names."""

from __future__ import annotations

import signal
import threading


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set; a second SIGINT interrupts at once."""
    asked = threading.Event()

    def ask(number: int, _: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    return asked


def complete_projection(incomplete: str) -> list[str]:
    """The projections of the configuration that begin so."""
    return [name for name in _names("projections") if name.startswith(incomplete)]


def complete_store(incomplete: str) -> list[str]:
    """The stores of the configuration that begin so."""
    return [name for name in _names("stores") if name.startswith(incomplete)]


def _names(section: str) -> list[str]:
    import tomllib

    from esops.config import find_config
    from esops.errors import UsageError

    try:
        path = find_config(None)
        return list(tomllib.loads(path.read_text(encoding="utf-8")).get(section, {}))
    except (UsageError, OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return []


def is_interactive() -> bool:
    """Whether a person can be asked."""
    import sys

    return sys.stdin.isatty() and sys.stderr.isatty()
