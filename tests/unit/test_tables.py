"""Tables at a terminal: whole columns are left out, and no cell is ever cut."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from esops import term
from esops.errors import Unavailable, UsageError
from esops.term.tables import fitting_columns

COLUMNS = ["run", "policy", "store", "state", "events", "sealed_at", "detail"]
RUN = "20260301T020000Z-old-carts-1f2e3d"
ROWS = [
    [RUN, "old-carts", "shop", "done", 12345, None, None],
    [RUN, "very-old-customer-profiles", "shop-eu-central", "failed", 7, None, "word " * 40],
]


def written(width, columns, rows, **options):
    """What a terminal of this width shows: the table, and what is said about it."""
    output = term.Output()
    shown, said = io.StringIO(), io.StringIO()
    output.data = Console(
        file=shown, force_terminal=True, width=width, color_system=None, soft_wrap=True
    )
    output.talk = Console(file=said, width=1000)
    output.table("", columns, rows, **options)
    return shown.getvalue(), said.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 100, 120, 200, 400])
def test_names_and_runs_are_whole_at_any_width(width):
    shown, said = written(
        width, COLUMNS, ROWS, drop=["sealed_at", "events", "detail", "store"], wrap=["detail"]
    )
    assert shown.count(RUN) == 2
    assert "very-old-customer-profiles" in shown
    assert "…" not in shown
    if width >= 80:
        assert max(map(len, shown.splitlines())) <= width
    for name in COLUMNS:
        assert (name in shown) != (f"{name}," in said or f"{name} (" in said), name


def test_the_least_important_columns_go_first():
    said = [
        written(width, COLUMNS, ROWS[:1], drop=["store", "events"])[1] for width in (85, 84, 77)
    ]
    assert ["store" in each for each in said] == [False, True, True], said
    assert ["events" in each for each in said] == [False, False, True], said


def test_numbers_are_flush_right():
    shown, _ = written(80, ["n", "events"], [["a", 12_345], ["b", 7]])
    assert [line.rstrip() for line in shown.splitlines()] == [
        "n  events",
        "a   12345",
        "b       7",
    ]


def test_a_second_table_in_a_pipe_has_a_title_and_csv_knows_null_and_false(capsys):
    output = term.Output()
    output.table("First", ["a"], [[1]])
    output.table("Second", ["a"], [[2]], apart=True)
    output.csv([{"a": None, "b": False, "c": 0}], ["a", "b", "c"])
    assert capsys.readouterr().out.splitlines() == [
        "a", "1", "", "Second", "a", "2", "a,b,c", ",false,0",
    ]  # fmt: skip


def test_without_an_order_the_columns_go_from_the_right():
    _, said = written(60, COLUMNS, ROWS[:1])
    assert re.search(r"width: .*sealed_at, detail \(--output json", said)


def test_prose_is_wrapped_and_keeps_every_word():
    shown, _ = written(130, COLUMNS, ROWS, drop=[], wrap=["detail"])
    assert shown.count("word") == 40


def test_prose_is_never_wrapped_within_a_word():
    table = "a_table_with_a_rather_long_name__v1"
    for width in (20, 50, 80):
        shown, _ = written(
            width, ["version", "tables"], [[1, f"{table}, {table}"]], drop=[], wrap=["tables"]
        )
        assert shown.count(table) == 2


def test_markup_in_a_cell_is_shown_as_it_is():
    assert "[bold]x[/bold]" in written(80, ["a"], [["[bold]x[/bold]"]])[0]


def test_a_pipe_gets_all_columns(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    term.Output().table("", COLUMNS, ROWS, drop=["store"])
    assert sys.stdout.getvalue().splitlines()[0].split() == COLUMNS


@given(
    st.lists(st.text("abc 日本é", min_size=1, max_size=30), min_size=1, max_size=6, unique=True),
    st.integers(1, 150),
)
def test_what_is_kept_fits_or_nothing_more_can_be_dropped(columns, width):
    kept, needed = fitting_columns(columns, [], width)
    assert kept[0] == 0
    assert needed <= width or kept == [0]


def into_a_file(path, **given):
    return term.Output(term.GlobalOptions(output_file=path, **given))


def test_a_result_file_appears_when_the_command_has_ended(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("the last one")
    output = into_a_file(path)
    with output.file:
        output.json({"new": True})
        assert path.read_text() == "the last one"
    assert path.read_text() == '{\n  "new": true\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_command_that_fails_leaves_the_last_result(tmp_path):
    path = tmp_path / "result.csv"
    path.write_text("the last one")
    output = into_a_file(path)
    with pytest.raises(KeyError), output.file:
        output.line("half of it")
        raise KeyError
    assert path.read_text() == "the last one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_result_without_a_row_is_an_empty_file(tmp_path):
    path = tmp_path / "result.ndjson"
    with into_a_file(path).file:
        pass
    assert path.read_text() == ""


def test_a_file_gets_no_control_characters_and_text_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = tmp_path / "result.txt"
    output = into_a_file(path)
    with output.file:
        output.table("title", COLUMNS, ROWS)
        output.line(":heart: [bold]x")
    assert "\x1b" not in path.read_text()
    assert path.read_text().endswith(":heart: [bold]x\n")


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        into_a_file(tmp_path / "no" / "x")


def test_a_file_that_cannot_be_written_is_found_before_the_command_does_anything(tmp_path):
    for path in (tmp_path, Path("/proc/result"), Path()):
        with pytest.raises(UsageError, match="--output-file"):
            into_a_file(path)


def test_a_full_device_is_said_and_nothing_is_left_behind():
    output = into_a_file(Path("/dev/full"))
    with pytest.raises(Unavailable, match="/dev/full cannot be written: No space left"):
        with output.file:
            output.line("x")


def test_a_disk_that_fills_leaves_no_part(tmp_path, monkeypatch):
    path = tmp_path / "result"
    output = into_a_file(path)
    with pytest.raises(Unavailable, match="No space left"):
        with output.file:
            output.line("x")
            os.dup2(os.open("/dev/full", os.O_WRONLY), output.file._stream.fileno())
            output.line("y")
    assert list(tmp_path.iterdir()) == []


def test_a_result_file_keeps_its_mode_its_link_and_what_stands_beside_it(tmp_path):
    private, link, other = (tmp_path / name for name in ("private", "link", "private.part"))
    private.write_text("the last one")
    private.chmod(0o600)
    link.symlink_to(private)
    other.write_text("precious")
    output = into_a_file(link)
    with output.file:
        output.line("new")
    assert link.is_symlink()
    assert private.read_text() == "new\n"
    assert private.stat().st_mode & 0o777 == 0o600
    assert other.read_text() == "precious"
    assert sorted(tmp_path.iterdir()) == sorted([private, link, other])
