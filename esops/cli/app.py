"""The root command, the options that work everywhere, and what an error looks like."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from esops.cli.shared import complete_store

if TYPE_CHECKING:
    from esops.term import Output

_GLOBAL_PANEL = "Options that work everywhere"
_LONGEST_SUMMARY = 90
_META = "esops.global"


def _global(*names: str, **more: Any) -> Any:
    return typer.Option(None, *names, rich_help_panel=_GLOBAL_PANEL, show_default=False, **more)


_GLOBALS: dict[str, tuple[Any, Any]] = {
    "config_": (
        str | None,
        _global(
            "--config",
            metavar="FILE",
            help="The configuration; else ESOPS_CONFIG, or esops.toml here or above.",
        ),
    ),
    "store_": (
        str | None,
        _global(
            "--store",
            metavar="NAME",
            help="The store, where the configuration has several.",
            autocompletion=complete_store,
        ),
    ),
    "output_": (
        Literal["table", "json", "ndjson", "csv"] | None,
        _global("--output", help="How results are written."),
    ),
    "quiet_": (bool | None, _global("--quiet", help="Only results and errors.", is_flag=True)),
    "verbose_": (bool | None, _global("--verbose", help="More of the log.", is_flag=True)),
    "debug_": (
        bool | None,
        _global("--debug", help="All of the log, and tracebacks.", is_flag=True),
    ),
    "log_format_": (
        Literal["console", "json"] | None,
        _global("--log-format", help="How the log is written."),
    ),
    "no_color_": (bool | None, _global("--no-color", help="No colour.", is_flag=True)),
}


def with_globals(function: Callable[..., Any], own: Collection[str] = ()) -> Callable[..., Any]:
    """Let a command (whose first parameter is the context) take the options that work everywhere,
    but for those that it has its own of.
    """
    options = {name: option for name, option in _GLOBALS.items() if name not in own}

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in options}
        context: typer.Context = kwargs["context"]
        kept = context.find_root().meta.setdefault(_META, {})
        kept.update({name: value for name, value in given.items() if value is not None})
        return function(*args, **kwargs)

    signature = inspect.signature(function)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in options.items()
    ]
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
    command.__annotations__ = typing.get_type_hints(function) | {
        name: kind for name, (kind, _) in options.items()
    }
    return command


class _Help:
    """Help in plain text: examples first, then what the command does, then options in groups.

    Examples are written in the docstring of a command: a paragraph whose first line begins with
    `esops `, each line one example that can be pasted. A line that ends with a backslash goes on
    in the next one. The first example runs the command itself with the arguments that most people
    need; a group's (given to `group`) runs the command of it that most people need. It does not
    matter where in the docstring the paragraph stands. `tests/unit/test_help.py` checks that all
    have an example, and that the examples parse.

    Without rich, whose import takes longer than all else.
    """

    help: str | None

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, then the other paragraphs of the docstring."""
        lines = examples(ctx.command.help)
        if lines:
            formatter.write("\nExample:\n")
            for line in lines:
                formatter.write(f"  {line}\n")
        for paragraph in _paragraphs(ctx.command.help):
            if not paragraph.startswith("esops "):
                formatter.write("\n")
                formatter.write_text(" ".join(paragraph.split()))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options by their groups, those that work everywhere last; then the
        commands.
        """
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in ctx.command.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panel = getattr(parameter, "rich_help_panel", None)
                panel = panel or (
                    "Arguments" if parameter.param_type_name == "argument" else "Options"
                )
                groups.setdefault(panel, []).append(record)
        everywhere = groups.pop(_GLOBAL_PANEL, None)
        if isinstance(self, TyperGroup):
            commands = [self.commands[name] for name in self.list_commands(ctx)]
            groups = {
                "Commands": [
                    (each.name or "", summary(each.help)) for each in commands if not each.hidden
                ]
            } | groups
        if everywhere:
            groups[_GLOBAL_PANEL] = everywhere
        for panel, records in groups.items():
            with formatter.section(panel):
                formatter.write_dl(records)


class Command(_Help, TyperCommand):
    """A command whose help is ours."""


class CommandGroup(_Help, TyperGroup):
    """A command group whose help is ours; lists its commands in the order in which they
    were added.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's form
        """The names."""
        return list(self.commands)


def _paragraphs(text: str | None) -> list[str]:
    return [each.strip() for each in inspect.cleandoc(text or "").split("\n\n") if each.strip()]


def examples(text: str | None) -> list[str]:
    """The lines of a docstring's examples, as they are written."""
    return [
        line.strip()
        for paragraph in _paragraphs(text)
        if paragraph.startswith("esops ")
        for line in paragraph.splitlines()
    ]


def summary(text: str | None) -> str:
    """The first paragraph of a docstring that is not an example, on one line."""
    prose = [each for each in _paragraphs(text) if not each.startswith("esops ")]
    line = " ".join(prose[0].split()) if prose else ""
    return line if len(line) <= _LONGEST_SUMMARY else line[: _LONGEST_SUMMARY - 1] + "…"


app = typer.Typer(
    name="esops",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(wanted: bool) -> None:
    if wanted:
        from esops import __version__

        typer.echo(f"esops {__version__}")
        raise typer.Exit


@app.callback()
@with_globals
def root(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Say which version this is."
    ),
) -> None:
    """Operate event-sourced systems in production.

    esops rebuild cart_summary --blue-green
    """


def command(
    at: typer.Typer, name: str | None = None, *, own: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a command to the root or a group; it takes the global options too, but for those that it
    has its own of.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        at.command(name, cls=Command)(with_globals(function, own))
        return function

    return add


def group(name: str, help: str, *shown: str) -> typer.Typer:
    """Add a command group to the root. `shown` are the examples that its help begins with."""
    help = "\n\n".join(["\n".join(shown), help])
    made = typer.Typer(cls=CommandGroup, no_args_is_help=True, rich_markup_mode=None)

    def callback(context: typer.Context) -> None:
        """Nothing of its own."""

    made.callback(help=help)(with_globals(callback))
    app.add_typer(made, name=name, help=help)
    return made


def current_output(context: typer.Context, *, talks: bool = True) -> Output:
    """The way out for the running command, by the global options, with logging set up.

    `talks`: the command tells a person what it does, so that the console needs no log beside it.
    """
    from pathlib import Path

    from esops import term

    given = context.find_root().meta.get(_META, {})
    settings = term.Settings(
        config=Path(given["config_"]) if given.get("config_") else None,
        store=given.get("store_"),
        output=given.get("output_"),
        quiet=bool(given.get("quiet_")),
        verbose=bool(given.get("verbose_")),
        debug=bool(given.get("debug_")),
        log_format=given.get("log_format_") or "console",
        color=not given.get("no_color_"),
    )
    term.set_up_logging(settings, talks=talks)
    return term.Output(settings)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from esops.cli import load
    from esops.cli.pipes import EXIT_CODE, ClosedPipes

    load.commands()
    pipes = ClosedPipes()
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    code = _guarded(lambda: app(args=arguments, standalone_mode=False), debug)
    pipes.flush()
    sys.exit(EXIT_CODE if pipes.closed else code)


def _guarded(run: Callable[[], Any], debug: bool) -> int:
    """Run, and return the exit code.

    What is raised becomes a sentence and a hint; a traceback is shown only for --debug.
    """
    try:
        code = run()
    except typer.TyperException as error:
        return _usage_error(error)
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("error: interrupted\n")
        return 5
    except Exception as error:  # noqa: BLE001 - the last resort
        if debug:
            import traceback

            traceback.print_exc()
        return _report(error)
    # 130 is what Typer makes of an interrupt
    return 5 if code == 130 else code if isinstance(code, int) else 0


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        sys.stderr.write(context.get_help() + "\n")
        return 2
    sys.stderr.write(f"error: {error.format_message()}\n")
    sys.stderr.write(f"hint: See `{context.command_path if context else 'esops'} --help`.\n")
    return error.exit_code if error.exit_code != 1 else 2


def _report(error: Exception) -> int:
    from esops import term
    from esops.errors import EsopsError, Unavailable

    output = term.Output(term.Settings(color="--no-color" not in sys.argv))
    if type(error).__module__.startswith("psycopg") and not isinstance(error, EsopsError):
        first = str(error).strip().splitlines()
        error = Unavailable(
            f"the database gave up: {first[0] if first else type(error).__name__}",
            hint="See --debug.",
        )
    if not isinstance(error, EsopsError):
        error = EsopsError(
            f"a defect in esops: {type(error).__name__}: {error}",
            hint="Run it again with --debug and report what that prints.",
        )
    output.error(error)
    return error.exit_code
