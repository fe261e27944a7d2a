"""The root command, the options that work with every command, and what an error looks like."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from esops.cli.command import Command, CommandGroup
from esops.cli.global_options import global_values
from esops.cli.option_groups import with_flat_options

if TYPE_CHECKING:
    from esops.term import Output

app = typer.Typer(
    name="esops",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(asked: bool) -> None:
    if asked:
        from esops import __version__

        typer.echo(f"esops {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version of esops."
        ),
    ] = False,
) -> None:
    """Operate event-sourced systems in production.

    esops rebuild cart_summary --blue-green
    """


def command(at: typer.Typer, name: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Add a command to the root or a group. It may take options in groups (option_groups)."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        at.command(name, cls=Command)(with_flat_options(function))
        return function

    return add


def group(name: str, help: str, *shown: str, at: typer.Typer = app) -> typer.Typer:
    """Add a command group to the root, or to another. `shown` are the examples that its help begins
    with.
    """
    help = "\n\n".join(["\n".join(shown), help])
    # Typer shows the help of the callback for the group, and this one in the list of commands.
    added = typer.Typer(cls=CommandGroup, no_args_is_help=True, rich_markup_mode=None)

    added.callback(help=help)(lambda: None)
    at.add_typer(added, name=name, help=help)
    return added


def current_output(context: typer.Context, *, talks: bool = True) -> Output:
    """Make the output of the running command, as the global options say, and set up logging.

    `talks`: the command itself tells a person what it does, so that the log shows only warnings.
    """
    from esops import term

    settings = global_values(context).settings()
    term.set_up_logging(settings, talks=talks)
    # What a projection prints must not stand in a result.
    context.find_root().with_resource(term.kept_for_results())
    output = term.Output(settings)
    if output.file is not None:
        # Closed with the root's context, which knows whether the command raised something.
        context.find_root().with_resource(output.file)
    return output


@cache
def whole_command() -> Any:
    """The command of `esops` with all that belongs to it; made once in a process, and each command
    when it is called.
    """
    from esops.cli.load import RootCommands

    made: Any = get_command(app)
    made.commands = RootCommands()
    return made


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from esops.cli.completion_scripts import asked
    from esops.cli.pipes import ClosedPipes
    from esops.standard_streams import never_fail

    # Imports and rows of a database are many objects without cycles: with Python's own threshold
    # (700), looking for cycles among them took an eighth of an archive run.
    gc.set_threshold(50_000, 20, 100)
    # Read here, since an error may come before the options are parsed.
    given = sys.argv[1:] if arguments is None else arguments
    completion = asked(given)
    never_fail()
    with ClosedPipes() as pipes:
        # Not standalone: Typer would print errors in its own form and exit by itself.
        code = _guarded(
            # By this name wherever it was started from: the record of what was done, help and hints
            # call a command by it, and `python -m esops` has another one.
            (lambda: whole_command()(args=arguments, prog_name="esops", standalone_mode=False))
            if completion is None
            else lambda: _write_completion(*completion),
            given,
        )
        pipes.flush()
    # The interpreter looks for cycles among all that is left before it ends, which takes 0.1 s.
    gc.freeze()
    sys.exit(code if pipes.exit_code is None else pipes.exit_code)


def _write_completion(option: str, shell: str | None) -> int:
    from esops.cli.completion_scripts import write

    write(option, shell)
    return 0


def _guarded(run: Callable[[], Any], given: Sequence[str]) -> int:
    """Run what was given on the command line, and return the exit code.

    What is raised becomes a sentence and a hint; a traceback is shown only for --debug.
    """
    try:
        code = run()
    except typer.TyperException as error:
        return _usage_error(error, given)
    except (typer.Abort, KeyboardInterrupt):
        from esops.errors import Stopped

        return _report(Stopped("interrupted"), given)
    except Exception as error:  # noqa: BLE001 - the last resort
        if "--debug" in given:
            import traceback

            from esops.escaping import visible_lines

            sys.stderr.write(visible_lines(traceback.format_exc()))
        return _report(error, given)
    # Typer turns an interrupt into 130
    return 5 if code == 130 else code if isinstance(code, int) else 0


def _usage_error(error: typer.TyperException, given: Sequence[str]) -> int:
    context = getattr(error, "ctx", None)
    # A group without a command is answered with its help; Typer gives the class no public name.
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        sys.stderr.write(context.get_help() + "\n")
        return 2
    # Typer puts the nearest options into the message, the best first; here an error says what is
    # wrong, and its hint what may have been meant.
    near = getattr(error, "possibilities", None)
    message = error.message if near else error.format_message().replace(": Value error, ", ": ")
    meant = f"Did you mean {near[0]!r}? " if near else ""
    from esops.errors import UsageError

    _report(
        UsageError(
            message, hint=f"{meant}See `{context.command_path if context else 'esops'} --help`."
        ),
        given,
    )
    # Typer's own 1 would say that there are findings.
    return error.exit_code if error.exit_code != 1 else 2


def _report(error: Exception, given: Sequence[str]) -> int:
    from esops import term
    from esops.errors import EsopsError, Unavailable

    # As it was given, since the error may be one of the options.
    as_json = "--log-format=json" in given or ("--log-format", "json") in pairwise(given)
    settings = term.GlobalOptions(
        color="--no-color" not in given, log_format="json" if as_json else "console"
    )
    term.set_up_logging(settings)
    output = term.Output(settings)
    # What no `translated()` has caught. psycopg is not imported for this: most errors are others.
    if type(error).__module__.startswith("psycopg") and not isinstance(error, EsopsError):
        from esops.postgres.used_up import used_up

        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        error = used_up(getattr(error, "sqlstate", None), first) or Unavailable(
            f"the database failed: {first}", hint="Run it again with --debug to see where."
        )
    if not isinstance(error, EsopsError):
        error = EsopsError(
            f"a defect in esops: {type(error).__name__}: {error}",
            hint="Run it again with --debug, and report what it prints.",
        )
    output.error(error)
    return error.exit_code
