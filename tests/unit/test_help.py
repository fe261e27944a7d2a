"""Help: every command and group starts with an example, and every example can be pasted."""

from __future__ import annotations

import shlex

import pytest
import typer

from esops.cli.app import app
from esops.cli.help import examples
from esops.cli.load import commands


def everything(command, path=("esops",)):
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from everything(each, (*path, name))


commands()
ROOT = typer.main.get_command(app)
ALL = dict(everything(ROOT))


def joined(lines):
    """Examples with their continuation lines on one line."""
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def parse(example):
    """The path of the command that an example runs. Raises what the command line raises."""
    words = shlex.split(example, comments=True)
    for end in ("|", ">", ";", "&&"):
        words = words[: words.index(end)] if end in words else words
    path, command, arguments = [words[0]], ROOT, words[1:]
    context = None
    while True:
        context = command.make_context(path[-1], list(arguments), parent=context)
        rest = [*context._protected_args, *context.args]
        if not rest or not hasattr(command, "commands"):
            return tuple(path), context
        command, arguments = command.commands[rest[0]], rest[1:]
        path.append(rest[0])


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_starts_with_an_example_that_can_be_pasted(path):
    command = ALL[path]
    lines = joined(examples(command.help))
    assert lines, "no paragraph of the docstring begins with `esops `"
    for line in lines:
        assert line.startswith("esops "), f"not a command, or the line before lacks a \\: {line}"
        parse(line)
    ran, _ = parse(lines[0])
    assert ran[: len(path)] == path, (
        "the first example runs the command itself, or one of the group"
    )
    text = command.get_help(typer.Context(command, info_name=" ".join(path)))
    first, *_ = [each for each in text.splitlines()[1:] if each.strip() and each[0] != " "]
    assert first == "Example:"


def test_an_example_that_does_not_parse_is_found():
    for wrong in ("esops rebuild --bluegreen", "esops nonsense", "esops projection show"):
        with pytest.raises((typer.TyperException, KeyError)):
            parse(wrong)
