"""What a command writes: results on stdout or in a file, everything else on stderr.

A terminal gets tables, a progress bar and colour; a pipe and a file get plain lines without control
characters.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal, TextIO, cast

import structlog
from rich.console import Console
from rich.segment import Segments

from esops import standard_streams as streams
from esops.errors import EsopsError, UsageError
from esops.escaping import visible, visible_lines
from esops.term.options import GlobalOptions
from esops.term.progress import ProgressLine
from esops.term.result_file import ResultFile
from esops.term.tables import aligned_by_spaces, fitting_columns, terminal_table
from esops.term.values import cell, csv_cell, to_json

_log = structlog.get_logger("esops")
Format = Literal["table", "json", "ndjson", "csv"]


@dataclass
class Output:
    """Where one command writes: its results, and what it says beside them."""

    settings: GlobalOptions = field(default_factory=GlobalOptions)

    def __post_init__(self) -> None:
        """Find out what the streams are. Raises UsageError where --output-file cannot be."""
        named = self.settings.output_file
        self.file = None if named is None else ResultFile(named)
        self.data = self._console()
        self.talk = Console(file=sys.stderr, **self._look)

    @property
    def _look(self) -> dict[str, Any]:
        # No emoji: a payload may hold ":heart:" and has to come out as it is.
        return {
            "no_color": not self.settings.color,
            "highlight": False,
            "soft_wrap": True,
            "emoji": False,
        }

    def _console(self) -> Console:
        # Whatever FORCE_COLOR says, a file gets no control characters.
        terminal = False if self.file is not None else None
        return Console(file=cast("IO[str]", self.out), force_terminal=terminal, **self._look)

    @property
    def out(self) -> TextIO | ResultFile:
        """Where results go: stdout as it is at this moment, or the file that was named."""
        return self.file or streams.results()

    def write_file_myself(self) -> None:
        """Let the command write the file that --output-file names; results then go to stdout."""
        if self.file is not None:
            self.file.left = True
            self.file = None
            self.data = self._console()

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
        self._write_json(to_json(document, indent=self.data.is_terminal or self.file is not None))
        self.out.flush()

    def json_with(self, document: Mapping[str, Any], name: str, rows: Iterable[object]) -> None:
        """Write one JSON document with a list `name` at its end, whose rows are written as they
        come. The document must not be empty.
        """
        indent = self.data.is_terminal or self.file is not None
        gap, deeper = ("\n  ", "\n    ") if indent else ("", "")
        head = to_json(document, indent=indent).removesuffix("}").rstrip()
        between = f"{head},{gap}{to_json(name)}:{' ' * indent}["
        for row in rows:
            self._write_json(f"{between}{deeper}{to_json(row)}", end="")
            between = ","
        ended = "" if between == "," else between
        self._write_json(f"{ended}{gap if between == ',' else ''}]{gap[:1]}}}")
        self.out.flush()

    def ndjson(self, rows: Iterable[object]) -> None:
        """Write one object a line, as they come."""
        for row in rows:
            self._write_json(to_json(row))
        # So that `esops events --follow | …` sees each event as it comes.
        self.out.flush()

    def _write_json(self, text: str, end: str = "\n") -> None:
        """A terminal that has ASCII only gets the same values, in JSON's own escapes."""
        out = self.out
        out.write((text if streams.can_write(out, text) else streams.escaped(text)) + end)

    def csv(self, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Write rows with a header, as they come."""
        writer = csv.writer(self.out)
        writer.writerow(map(visible, columns))
        for row in rows:
            writer.writerow([csv_cell(row.get(column)) for column in columns])

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        drop: Sequence[str] | None = None,
        wrap: Sequence[str] = (),
        apart: bool = False,
    ) -> None:
        """Write a table. No cell is ever cut: names, run ids and versions stay whole at any width.

        Where a terminal is too narrow, whole columns are left out, and a line below the table
        names them. In a pipe all columns are written, aligned by spaces.

        Args:
            title: A line above the table; may be empty.
            columns: The headings, in the order in which they are shown.
            rows: One value for each column; a value is written as a person reads it.
            drop: Columns that can be left out, the least important one first. Without it, all
                but the first column can, from the right. Leave out of it whatever identifies a
                row, and whatever the reader has to type into the next command.
            wrap: Columns of prose (a message, a list of tables). Their text is broken into lines
                instead of making the table wide.
            apart: Another result is above: a blank line comes first, and in a pipe the title, too.
        """
        # A column may be named by whoever asks, as in `archive query`.
        shown = {name: visible(name) for name in columns}
        columns = [shown[name] for name in columns]
        drop = None if drop is None else [shown.get(name, name) for name in drop]
        wrap = [shown.get(name, name) for name in wrap]
        values = [list(row) for row in rows]
        texts = [[cell(value) for value in row] for row in values]
        if apart:
            self.line()
        if self.data.is_terminal:
            self._table_for_a_person(title, list(columns), values, texts, drop, wrap)
            return
        heading = f"{visible(title)}\n" if apart and title else ""
        self.out.write(heading + aligned_by_spaces(columns, texts))

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
        table = terminal_table(title, columns, values, texts, kept, wrap)
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
        # Without markup: a stream may be named "[red]".
        self.data.print(visible_lines(text), markup=False)

    def say(self, text: str, style: str | None = None) -> None:
        """Write a line for the operator to stderr, unless --quiet."""
        if self._logs:
            _log.info(text.strip())
        elif not self.settings.quiet:
            self.talk.print(visible_lines(text), style=style, markup=False)

    def warn(self, text: str) -> None:
        """Write what is wrong, and does not stop the command, to stderr; also with --quiet."""
        if self._logs:
            _log.warning(text)
            return
        self.talk.print("warning: ", style="bold yellow", end="")
        self.talk.print(text, markup=False)

    def error(self, error: EsopsError) -> None:
        """Write what went wrong, and what to do about it, to stderr."""
        if self._logs:
            _log.error(error.message, **({"hint": error.hint} if error.hint else {}))
            return
        self.talk.print("error: ", style="bold red", end="")
        self.talk.print(visible_lines(error.message), markup=False)
        if error.hint:
            self.talk.print("hint: ", style="bold cyan", end="")
            self.talk.print(visible_lines(error.hint), markup=False)

    @property
    def shows_progress(self) -> bool:
        """Whether a progress bar can be drawn: it is made of control characters."""
        return self.talk.is_terminal and not self.settings.quiet and not self._logs

    @property
    def _logs(self) -> bool:
        """Whether a machine reads stderr, so that all of it is one log of JSON lines."""
        return self.settings.log_format == "json"

    def progress(
        self,
        what: str,
        done: int,
        total: int | None,
        left: Callable[[], float | None] | None = None,
    ) -> ProgressLine:
        """Show a progress line for a long job; `done` is how much of it was done before."""
        return ProgressLine(self, what, done, total, left)
