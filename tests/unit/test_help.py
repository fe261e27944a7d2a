"""Help: every command and group starts with an example, and every example can be pasted."""

from __future__ import annotations

import ast
import functools
import shlex
import subprocess
import sys

import pytest
import typer

from esops.cli.app import app, whole_command
from esops.cli.help import examples, summary
from esops.cli.load import ROOT as LOADED
from esops.cli.load import RootCommands, commands


def everything(command, path=("esops",)):
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from everything(each, (*path, name))


@functools.cache
def root():
    """The whole command, with all that it imports: not while tests are collected."""
    commands()
    made = typer.main.get_command(app)
    # Commands that were called in this process before are the first ones otherwise.
    order = [*LOADED]
    made.commands = dict(sorted(made.commands.items(), key=lambda each: order.index(each[0])))
    return made


@functools.cache
def commands_by_path():
    return dict(everything(root()))


def joined(lines):
    """Examples with their continuation lines on one line."""
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def parse(example):
    """The path of the command that an example runs. Raises what the command line raises."""
    words = shlex.split(example, comments=True)
    for end in ("|", ">", ";", "&&"):
        words = words[: words.index(end)] if end in words else words
    path, command, arguments = [words[0]], root(), words[1:]
    context = None
    while True:
        context = command.make_context(path[-1], list(arguments), parent=context)
        rest = [*context._protected_args, *context.args]
        if not rest or not hasattr(command, "commands"):
            return tuple(path), context
        command, arguments = command.commands[rest[0]], rest[1:]
        path.append(rest[0])


def faults_of(path, command):
    """What is wrong with the examples of a command's help."""
    lines = joined(examples(command.help))
    if not lines:
        return ["no paragraph of the docstring begins with `esops `"]
    found = []
    for line in lines:
        if not line.startswith("esops "):
            found.append(f"not a command, or the line before lacks a \\: {line}")
            continue
        try:
            ran, _ = parse(line)
        except (typer.TyperException, KeyError) as error:
            found.append(f"does not parse: {line}: {error}")
            continue
        if line == lines[0] and ran[: len(path)] != path:
            found.append("the first example runs neither the command itself nor one of the group")
    text = command.get_help(typer.Context(command, info_name=" ".join(path)))
    first, *_ = [each for each in text.splitlines()[1:] if each.strip() and each[0] != " "]
    return found if first == "Example:" else [*found, f"it starts with: {first}"]


def test_help_starts_with_an_example_that_can_be_pasted():
    wrong = [
        f"{' '.join(path)}: {fault}"
        for path, command in commands_by_path().items()
        for fault in faults_of(path, command)
    ]
    assert not wrong, "\n".join(wrong)


def test_an_example_that_does_not_parse_is_found():
    for wrong in ("esops rebuild --bluegreen", "esops nonsense", "esops projection show"):
        with pytest.raises((typer.TyperException, KeyError)):
            parse(wrong)


def test_the_root_lists_its_commands_without_importing_them():
    """What is said of a command before it is imported is what its docstring says."""
    whole = list(root().commands.items())
    assert [name for name, _ in whole] == list(RootCommands())
    assert list(RootCommands().listed()) == [
        (name, summary(each.help)) for name, each in whole if not each.hidden
    ]
    first, second = (
        each.get_help(typer.Context(each, info_name="esops", **each.context_settings))
        for each in (root(), whole_command())
    )
    assert first == second


@pytest.mark.thorough
def test_a_command_is_made_whole_when_it_is_called():
    for name, each in RootCommands().items():
        told = dict(everything(each, ("esops", name)))
        assert told.keys() == {path for path in commands_by_path() if path[1:2] == (name,)}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["audit", "--help"]])
def test_only_the_modules_of_the_command_are_imported(arguments):
    code = (
        "import sys; from esops.cli.app import whole_command\n"
        f"whole_command()({arguments!r}, standalone_mode=False)\n"
        "print(sorted(n for n in sys.modules if n.startswith('esops.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(ast.literal_eval(done.stderr))
    loaded = {module for each in LOADED.values() for module in each.modules}
    wanted = {"audit"} if arguments[0] == "audit" else set()
    assert {each for each in loaded if f"esops.cli.{each}" in imported} == wanted
