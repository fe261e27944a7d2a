"""Options in groups: commands take objects, and Typer sees flat options."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Annotated

import pytest
import typer

from esops.cli.command import Command
from esops.cli.global_options import GivenGlobals, global_values
from esops.cli.option_groups import Wording, option_group, option_names, with_flat_options

Shared = Annotated[str | None, typer.Option("--shared", help="As declared.")]
Elsewhere = Annotated[bool, typer.Option("--elsewhere", rich_help_panel="Options")]


@option_group(panel="Reading")
class ReadOptions:
    file: Annotated[Path, typer.Option("--file", metavar="FILE")] = Path("here")
    names: Annotated[list[str] | None, typer.Option("--name", help="Can be repeated.")] = None
    shared: Shared = None
    elsewhere: Elsewhere = False


@option_group()
class OtherOptions:
    count: Annotated[int, typer.Option("--count", min=1)]
    again: Annotated[str | None, typer.Option("--again")] = None


@option_group()
class MoreOptions(OtherOptions):
    more: Annotated[bool, typer.Option("--more")] = False


def command_of(function):
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(cls=Command)(with_flat_options(function))
    return typer.main.get_command(app)


def called(function, *arguments):
    return command_of(function)(args=list(arguments), prog_name="test", standalone_mode=False)


def test_a_command_gets_its_groups_as_objects():
    seen = []

    def command(
        context: typer.Context,
        name: str,
        read: ReadOptions,
        *,
        lone: Annotated[bool, typer.Option("--lone")] = False,
        other: OtherOptions,
    ) -> int:
        """Do it."""
        seen.append((context.params, name, read, lone, other))
        return 3

    assert called(command, "x", "--name", "a", "--name", "b", "--count", "2", "--lone") == 3
    params, name, read, lone, other = seen[0]
    assert (name, lone, other.count, other.again) == ("x", True, 2, None)
    assert (read.file, list(read.names), read.shared) == (Path("here"), ["a", "b"], None)
    # What records and completes finds each option by the name of its field.
    assert set(params) == {each.name for each in command_of(command).params[:8]}
    assert [each.name for each in command_of(command).params[:8]] == [
        *("name", "file", "names", "shared", "elsewhere", "lone", "count", "again"),
    ]


def test_an_object_is_frozen_and_has_real_defaults():
    options = ReadOptions(shared="s")
    assert (options.file, options.shared) == (Path("here"), "s")
    with pytest.raises(FrozenInstanceError):
        options.shared = "t"
    assert option_names(ReadOptions) == ("file", "names", "shared", "elsewhere")


def test_the_panel_is_of_options_that_name_none_themselves():
    def command(read: ReadOptions, shared_elsewhere: MoreOptions) -> None:
        """Do it."""

    panels = {each.name: each.rich_help_panel for each in command_of(command).params}
    assert [panels[name] for name in option_names(ReadOptions)] == [*["Reading"] * 3, "Options"]
    assert [panels[name] for name in option_names(MoreOptions)] == [None] * 3


def test_a_command_words_a_group_and_leaves_others_as_they_are():
    def worded(
        read: Annotated[ReadOptions, Wording(panel="Here", shared="In other words.")],
    ) -> None:
        """Do it."""

    def plain(read: ReadOptions) -> None:
        """Do it."""

    shown = [{e.name: e for e in command_of(each).params} for each in (worded, plain)]
    assert [each["shared"].help for each in shown] == ["In other words.", "As declared."]
    assert [each["shared"].rich_help_panel for each in shown] == ["Here", "Reading"]
    assert [each["names"].help for each in shown] == ["Can be repeated."] * 2


def test_mistakes_are_found_when_the_command_is_declared():
    def twice(a: OtherOptions, b: MoreOptions) -> None:
        """Do it."""

    def nowhere(a: Annotated[OtherOptions, Wording(nothing="?")]) -> None:
        """Do it."""

    with pytest.raises(ValueError, match="duplicate parameter name: 'count'"):
        with_flat_options(twice)
    with pytest.raises(TypeError, match="OtherOptions has no option nothing"):
        with_flat_options(nowhere)


def test_a_command_without_groups_is_left_alone():
    def command(name: str) -> None:
        """Do it."""

    assert with_flat_options(command) is command


def test_options_that_are_wrong_are_refused_as_others_are():
    def command(other: OtherOptions) -> None:
        """Do it."""

    for wrong, arguments in (
        ("Missing option '--count'", ()),
        ("Invalid value for '--count'", ("--count", "0")),
    ):
        with pytest.raises(typer.TyperException) as error:
            called(command, *arguments)
        assert wrong in error.value.format_message()


def test_the_global_options_are_such_a_group():
    seen = []

    def command(context: typer.Context, other: MoreOptions) -> None:
        """Do it."""
        seen.append((set(context.params), global_values(context)))

    called(command, "--count", "1", "-q", "--store", "shop")
    params, given = seen[0]
    assert isinstance(given, GivenGlobals)
    assert (given.store_, given.quiet_, given.debug_) == ("shop", True, None)
    assert params == {"count", "again", "more"}
    settings = given.settings()
    assert (settings.store, settings.quiet, settings.debug) == ("shop", True, False)
