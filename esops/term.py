"""What a person or a pipe gets to see: results on stdout, progress and logs on stderr, nothing
printed anywhere else.

A terminal gets tables, a progress bar and colour; a pipe gets plain lines without control
characters. Jobs return data;
the command hands it here.
"""

from __future__ import annotations

import csv
import io
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import orjson
import structlog
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

from esops.errors import EsopsError, UsageError

Format = Literal["table", "json", "ndjson", "csv"]
PLAIN_EVERY = timedelta(seconds=3)
_GAP = 2
_NARROWEST_PROSE = 24
"""Characters: a column of prose is wrapped to no fewer."""


@dataclass
class Settings:
    """The options that work everywhere."""

    config: Path | None = None
    store: str | None = None
    output: str | None = None
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    log_format: str = "console"
    color: bool = True


@dataclass
class Output:
    """One command's way out: where data, talk and progress go."""

    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Look at what the streams are."""
        plain = not self.settings.color
        self.data = Console(file=sys.stdout, no_color=plain, highlight=False, soft_wrap=True)
        self.talk = Console(file=sys.stderr, no_color=plain, highlight=False, soft_wrap=True)

    def format(self, *allowed: Format) -> Format:
        """The format asked for, or the first allowed one.

        Raises UsageError where it is not allowed here.
        """
        if self.settings.output is None:
            return allowed[0]
        for each in allowed:
            if each == self.settings.output:
                return each
        raise UsageError(
            f"--output {self.settings.output} is not possible here",
            hint="Possible: " + ", ".join(allowed),
        )

    @property
    def as_json(self) -> bool:
        """Whether one JSON document is wanted."""
        return self.settings.output == "json"

    def json(self, document: object) -> None:
        """Write one JSON document."""
        sys.stdout.write(to_json(document, indent=self.data.is_terminal) + "\n")
        sys.stdout.flush()

    def ndjson(self, rows: Iterable[object]) -> None:
        """Write one object a line, as they come."""
        for row in rows:
            sys.stdout.write(to_json(row) + "\n")
        sys.stdout.flush()

    def csv(self, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Write rows with a header, as they come."""
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(column)) for column in columns])

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        drop: Sequence[str] | None = None,
        wrap: Sequence[str] = (),
    ) -> None:
        """Write a table. No cell is ever cut: names, run ids and versions stay whole at any width.

        Where a terminal is too narrow, whole columns are left out, and a line below the table
        names them. In a pipe all columns are written, aligned by spaces.

        Args:
            title: A line above the table; may be empty.
            columns: The headings, in the order in which they are shown.
            rows: One value for each column; a value is written as `_cell` says.
            drop: Columns that can be left out, the least important one first. Without it, all
                but the first column can, from the right. Leave out of it whatever identifies a
                row, and whatever the reader has to type into the next command.
            wrap: Columns of prose (a message, a list of tables). Their text is broken into lines
                instead of making the table wide.
        """
        values = [list(row) for row in rows]
        texts = [[_cell(value) for value in row] for row in values]
        if self.data.is_terminal:
            self._table_for_a_person(title, list(columns), values, texts, drop, wrap)
            return
        widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
        buffer = io.StringIO()
        for row in (list(columns), *texts):
            buffer.write(
                "  ".join(
                    cell.ljust(width) for cell, width in zip(row, widths, strict=True)
                ).rstrip()
                + "\n"
            )
        sys.stdout.write(buffer.getvalue())

    def _table_for_a_person(
        self,
        title: str,
        columns: list[str],
        values: list[list[object]],
        texts: list[list[str]],
        drop: Sequence[str] | None,
        wrap: Sequence[str],
    ) -> None:
        kept, needed = fitting_columns(columns, texts, self.data.width, drop, wrap)
        table = Table(title=title or None, title_justify="left", title_style="bold", box=None)
        table.pad_edge, table.padding, table.header_style = False, (0, _GAP, 0, 0), "bold"
        for at in kept:
            numbers = any(row[at] is not None for row in values) and all(
                row[at] is None or (isinstance(row[at], int | float) and row[at] is not True)
                for row in values
            )
            table.add_column(
                columns[at],
                no_wrap=columns[at] not in wrap,
                overflow="fold" if columns[at] in wrap else "ignore",
                justify="right" if numbers else "left",
            )
        for row in texts:
            table.add_row(*(Text(row[at]) for at in kept))
        # A table that is still too wide is written in full: the terminal breaks its lines, and
        # nothing is lost.
        options = self.data.options.update(width=max(self.data.width, needed), no_wrap=False)
        self.data.print(Segments(self.data.render(table, options)), end="")
        left_out = [name for at, name in enumerate(columns) if at not in kept]
        if left_out:
            self.say(
                f"not shown at this width: {', '.join(left_out)} (--output json has all)", "dim"
            )

    def records(
        self,
        rows: Iterable[Mapping[str, Any]],
        columns: Sequence[str],
        *,
        title: str = "",
        drop: Sequence[str] | None = None,
        wrap: Sequence[str] = (),
    ) -> None:
        """Write rows of named values in the format that --output asks for; a table by default.

        JSON and NDJSON have all fields of a row, a table and CSV those that `columns` names.
        For the other arguments see `table`.
        """
        match self.format("table", "json", "ndjson", "csv"):
            case "json":
                self.json(list(rows))
            case "ndjson":
                self.ndjson(rows)
            case "csv":
                self.csv(rows, columns)
            case _:
                cells = [[row.get(column) for column in columns] for row in rows]
                self.table(title, columns, cells, drop=drop, wrap=wrap)

    def line(self, text: str = "") -> None:
        """Write a line of the result."""
        self.data.print(text, markup=False)

    def say(self, text: str, style: str | None = None) -> None:
        """Tell the operator something, unless --quiet."""
        if not self.settings.quiet:
            self.talk.print(text, style=style, markup=False)

    def error(self, error: EsopsError) -> None:
        """Tell what went wrong and what to do."""
        self.talk.print("error: ", style="bold red", end="")
        self.talk.print(error.message, markup=False)
        if error.hint:
            self.talk.print("hint: ", style="bold cyan", end="")
            self.talk.print(error.hint, markup=False)

    def progress(self, what: str, done: int, total: int | None) -> ProgressLine:
        """A progress line for a long job, so much of which is done already."""
        return ProgressLine(self, what, done, total)


class ProgressLine:
    """A bar at a terminal, or a plain line every few seconds; both with rate and time left.

    Never swallows a log line.
    """

    def __init__(self, output: Output, what: str, done: int, total: int | None) -> None:
        """Take what is counted, how much is done before it begins, and how much there is to do, if
        that is known.
        """
        self._output, self._what, self._before, self._total = output, what, done, total
        self._started = self._last = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if output.talk.is_terminal and not output.settings.quiet:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=output.talk,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, rate="")
            self._bar.start()

    def update(self, done: int, total: int | None) -> None:
        """Say how much is done, and of how much."""
        now = time.monotonic()
        self._total = total
        rate = (done - self._before) / max(now - self._started, 0.01)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=f"{rate:,.0f}/s")
        elif now - self._last >= PLAIN_EVERY.total_seconds():
            self._last = now
            left = ""
            if self._total is not None and self._total > done and rate > 0:
                left = f", about {duration((self._total - done) / rate)} left"
            of = f" of {self._total:,}" if self._total is not None else ""
            self._output.say(f"{self._what}: {done:,}{of}, {rate:,.0f}/s{left}")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def fitting_columns(
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    width: int,
    drop: Sequence[str] | None = None,
    wrap: Sequence[str] = (),
) -> tuple[list[int], int]:
    """Choose the columns of a table that fit into `width` characters without cutting a cell.

    Returns their indexes and how many characters they need. Columns that must not be dropped stay
    even where they need more than `width`.
    """
    widths = []
    for at, name in enumerate(columns):
        widest = max(cell_len(name), *(cell_len(row[at]) for row in texts), 0)
        widths.append(
            min(widest, max(_NARROWEST_PROSE, cell_len(name))) if name in wrap else widest
        )
    kept = list(range(len(columns)))

    def needed() -> int:
        return sum(widths[at] for at in kept) + _GAP * (len(kept) - 1)

    for name in reversed(columns[1:]) if drop is None else drop:
        if needed() <= width:
            break
        if name in columns:
            kept.remove(columns.index(name))
    return kept, needed()


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def to_json(document: object, *, indent: bool = False) -> str:
    """JSON with ISO 8601 times in UTC; positions and anything else that is no JSON as text."""
    option = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS
    if indent:
        option |= orjson.OPT_INDENT_2
    return orjson.dumps(document, default=str, option=option).decode()


def set_up_logging(settings: Settings, *, talks: bool = False) -> None:
    """Send structlog to stderr, as lines for people or as JSON.

    `talks`: the command tells a person what it does by itself.
    """
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
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )


class _Stderr:
    """Standard error as it is at each write: a progress bar puts itself before it, so that log
    lines come out above the bar.
    """

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, Mapping | list):
        return to_json(value)
    return str(value)
