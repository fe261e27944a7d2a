"""Where the log goes, and what of it is shown."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict

from esops.escaping import visible_lines
from esops.standard_streams import StderrNow
from esops.term.options import GlobalOptions


def set_up_logging(settings: GlobalOptions, *, talks: bool = False) -> None:
    """Send structlog to stderr, as lines for people or as JSON.

    `talks`: the command itself tells a person what it does, so that warnings are enough.
    """
    # A command that tells a person what it does needs no log beside it; a machine that reads JSON
    # gets both.
    level = logging.INFO
    if settings.debug or settings.verbose:
        level = logging.DEBUG
    elif settings.quiet or (talks and settings.log_format == "console"):
        level = logging.WARNING
    renderer: Callable[..., Any] = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=settings.color and sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _visible,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", StderrNow())),
        # Modules make their loggers when they are imported, before this is known.
        cache_logger_on_first_use=False,
    )


def _visible(_: object, __: str, entry: EventDict) -> EventDict:
    return {
        key: visible_lines(value) if isinstance(value, str) else value
        for key, value in entry.items()
    }
