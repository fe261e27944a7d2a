"""Standard output has the result and nothing else, whatever the terminal and the code that runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from esops import term
from esops.cli.completion_scripts import asked
from esops.errors import UsageError
from esops.standard_streams import escaped
from tests.support.project import ESOPS

_ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PATH": "/usr/bin:/bin"}


def _esops(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ESOPS), *arguments], env=_ASCII | environment, capture_output=True, text=True
    )


def test_a_terminal_without_unicode_gets_every_text():
    done = _esops("docs", "rebuild-without-downtime")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "..." in done.stdout, "the ellipsis of a sentence is readable, and no escape"


def test_json_keeps_its_values_where_a_terminal_has_no_unicode(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    output = term.Output(term.GlobalOptions(output="json"))
    output.json({"name": "Zoë … 🛒"})
    stream.seek(0)
    assert json.loads(stream.read()) == {"name": "Zoë … 🛒"}


def test_an_escape_is_that_of_json():
    assert json.loads(f'"{escaped("é🛒")}"') == "é🛒"


def test_what_other_code_prints_is_no_result(capsys):
    with term.kept_for_results():
        output = term.Output(term.GlobalOptions(output="json"))
        print("a projection's own")
        output.json({"rows": 1})
    print("after it")
    told = capsys.readouterr()
    assert told.out == '{"rows":1}\nafter it\n'
    assert told.err == "a projection's own\n"


def test_a_result_arrives_where_a_command_makes_its_output_twice(capsys):
    """As `projection pause`, `resume` and `throttle` do."""
    with term.kept_for_results(), term.kept_for_results():
        term.Output(term.GlobalOptions(output="json")).json({"rows": 1})
        print("a projection's own")
    print("after it")
    told = capsys.readouterr()
    assert (told.out, told.err) == ('{"rows":1}\nafter it\n', "a projection's own\n")


def test_a_log_in_json_has_all_that_is_said(capsys):
    settings = term.GlobalOptions(log_format="json")
    term.set_up_logging(settings)
    output = term.Output(settings)
    output.say("catching up")
    output.warn("slow")
    output.error(UsageError("wrong", hint="do it right"))
    line = output.progress("rebuild x: events", 0, 10)
    line.close()
    lines = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert [(each["event"], each["level"]) for each in lines] == [
        ("catching up", "info"),
        ("slow", "warning"),
        ("wrong", "error"),
    ]
    assert lines[2]["hint"] == "do it right"


@pytest.mark.parametrize("given", [["--log-format", "json"], ["--log-format=json"]])
def test_an_error_of_the_command_line_is_logged_as_asked(given):
    done = _esops(*given, "nosuch")
    assert done.returncode == 2
    assert json.loads(done.stderr)["event"] == "No such command 'nosuch'."


def test_the_completion_is_that_of_the_shell_that_is_named():
    assert "compdef _esops_completion" in _esops("--show-completion", "zsh").stdout
    assert "complete --command esops" in _esops("--show-completion=fish").stdout
    wrong = _esops("--show-completion", "tcsh")
    assert (wrong.returncode, "bash, zsh, fish" in wrong.stderr) == (2, True)
    assert asked(["status"]) is None
    assert asked(["--install-completion", "--help"]) is None  # which installed it
    assert asked(["--show-completion", "--no-color"]) == ("--show-completion", None)
