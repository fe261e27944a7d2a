"""Tables that are as wide as the terminal and never cut a name."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from esops.escaping import visible

GAP = 2
_NARROWEST_PROSE = 24
"""Characters: a column of prose is wrapped to no fewer."""


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
        # Cells, not characters: those of Chinese or Japanese names are two wide.
        widest = max(cell_len(name), *(cell_len(row[at]) for row in texts), 0)
        if name in wrap:
            # Prose counts with the width that it can be wrapped to without breaking a word: one
            # of its words may be the name of a table.
            words = [word for row in texts for word in row[at].split()]
            longest = max(_NARROWEST_PROSE, cell_len(name), *map(cell_len, words))
            widest = min(widest, longest)
        widths.append(widest)
    kept = list(range(len(columns)))

    def needed() -> int:
        return sum(widths[at] for at in kept) + GAP * (len(kept) - 1)

    for name in reversed(columns[1:]) if drop is None else drop:
        if needed() <= width:
            break
        # A list of columns to drop may name some that are not shown this time.
        if name in columns:
            kept.remove(columns.index(name))
    return kept, needed()


def terminal_table(
    title: str,
    columns: Sequence[str],
    values: Sequence[Sequence[object]],
    texts: Sequence[Sequence[str]],
    kept: Sequence[int],
    wrap: Sequence[str],
) -> Table:
    """Make a table of the kept columns; numbers are flush right, prose is wrapped."""
    heading = Text(visible(title)) if title else None
    table = Table(title=heading, title_justify="left", title_style="bold", box=None)
    table.pad_edge, table.padding, table.header_style = False, (0, GAP, 0, 0), "bold"
    # Columns of numbers, with their widths. Rich does not justify what it must not cut.
    flush_right = {
        at: max(map(len, [columns[at], *(row[at] for row in texts)]))
        for at in kept
        if _all_numbers([row[at] for row in values])
    }
    for at in kept:
        prose = columns[at] in wrap
        table.add_column(
            Text(columns[at].rjust(flush_right.get(at, 0))),
            no_wrap=not prose,
            overflow="fold" if prose else "ignore",
        )
    for row in texts:
        # As Text, since a cell may hold what rich takes for markup, such as [bold].
        table.add_row(*(Text(row[at].rjust(flush_right.get(at, 0))) for at in kept))
    return table


def _all_numbers(values: Sequence[object]) -> bool:
    numbers = [each for each in values if each is not None]
    return bool(numbers) and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in numbers
    )


def aligned_by_spaces(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> str:
    """All columns as plain text, for a pipe or a file."""
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    rows = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *texts)
    )
    return "".join(f"{row}\n" for row in rows)
