"""`esops erase`: erase a person's data from events, archives and read models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import app, command, current_output
from esops.cli.completion import complete_stream
from esops.cli.option_groups import option_group
from esops.cli.options import dry_run_option, yes_option
from esops.cli.shared import confirm, stop_on_signals

if TYPE_CHECKING:
    from esops.erasing.run import EraseOutcome, EraseRequest
    from esops.json_paths import JsonPath
    from esops.term import Output


@option_group(panel="Whose data")
class PersonOptions:
    """Whose data are erased, by streams or by values."""

    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            metavar="S,…",
            help="The events of these streams; can be repeated.",
            autocompletion=complete_stream,
        ),
    ] = None
    streams_from: Annotated[
        Path | None,
        typer.Option(
            "--streams-from",
            metavar="FILE",
            help="The streams that a file names, one a line; - for stdin.",
        ),
    ] = None
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="'JSONPATH=VALUE'",
            help="The events that have this value; can be repeated.",
        ),
    ] = None
    list_: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Such conditions from a file, one a line; - for stdin. The value is then in no "
            "list of processes.",
        ),
    ] = None

    def streams(self) -> tuple[str, ...]:
        """The names of the streams. Raises UsageError."""
        names = [name for each in self.stream or () for name in each.split(",") if name]
        return (*names, *_lines("--streams-from", self.streams_from))

    def conditions(self) -> tuple[tuple[JsonPath, str], ...]:
        """The values, each with its path. Raises UsageError."""
        from esops.errors import UsageError
        from esops.json_paths import split_condition

        conditions = []
        for option, texts in (
            ("--where", self.where or []),
            ("--list", _lines("--list", self.list_)),
        ):
            for text in texts:
                try:
                    conditions.append(split_condition(text))
                except ValueError as error:
                    raise UsageError(f"{option}: {error}") from None
        return tuple(conditions)


@option_group()
class EraseOptions:
    """The rules of an erasure, its reason, and what of it is done by hand."""

    rule: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            metavar="NAME",
            help="Only this rule of [erase.NAME]; can be repeated. Default: all that fit.",
        ),
    ] = None
    reason: Annotated[
        str | None,
        typer.Option(
            "--reason",
            metavar="TEXT",
            help="What the new seals of archives say, such as the number of the request.",
        ),
    ] = None
    done: Annotated[
        int | None,
        typer.Option(
            "--done",
            metavar="N",
            help="Say that the places which erasure N has named are cleared. Later runs of the "
            "same request then stop naming them.",
        ),
    ] = None


@command(app)
def erase(
    context: typer.Context,
    whose: PersonOptions,
    options: EraseOptions,
    *,
    dry_run: Annotated[bool, dry_run_option("Show the plan and stop.")] = False,
    yes: Annotated[bool, yes_option()] = False,
) -> int:
    """Erase a person's data from events and archives, and prove that nothing is left.

    What is masked, and with what, is said by the rules in [erase.NAME]. Backups, replicas, and
    events that were published elsewhere are not reached.

    Exit code 1 if something is left, with the places. The values are shown and logged nowhere.

    esops erase --where 'customerId=42' --dry-run
    esops erase --where 'customerId=42'
    """
    from esops.actions import current
    from esops.config import load_config
    from esops.erasing.earlier import confirm_done
    from esops.erasing.run import Erasure
    from esops.errors import Stopped

    output = current_output(context)
    asked = stop_on_signals()

    def stop() -> None:
        if asked.is_set():
            raise Stopped("the erasure was interrupted", hint="Run it again: it continues.")

    config = load_config(output.settings.config, erases=True)
    if options.done is not None:
        store = confirm_done(config, output.settings.store, options.done)
        number = options.done
        output.line(f"Erasure {number} of store {store} is done: what it named counts as cleared.")
        return 0
    request = _request(whose, options)
    with Erasure(config, output.settings.store, request, stop) as job:
        found = job.plan()
        if not dry_run:
            if not found.nothing_to_do:
                _tell(output, found)
                question = "Erase it? What is masked cannot be restored."
                confirm(question, yes=yes, what="an erasure changes events for ever")
            current.of_store(config, job.name)
            found = job.run()
    if output.format("table", "json") == "json":
        output.json(found.as_dict())
    else:
        _tell(output, found, last=True)
    return 1 if found.remaining and not dry_run else 0


def _request(whose: PersonOptions, options: EraseOptions) -> EraseRequest:
    from esops.erasing.run import EraseRequest

    request = EraseRequest(whose.streams(), whose.conditions(), tuple(options.rule or ()))
    return request if options.reason is None else replace(request, reason=options.reason)


def _lines(option: str, file: Path | None) -> list[str]:
    import sys

    from esops.errors import UsageError

    if file is None:
        return []
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        text = text.removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {file} cannot be read: {type(error).__name__}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _tell(output: Output, found: EraseOutcome, *, last: bool = False) -> None:
    """What was found, or done; to stderr where the result comes later."""
    from esops.escaping import visible
    from esops.wording import count

    say = output.line if last else output.say
    did = "would be masked" if found.planned else "are masked"
    say(
        f"{count(found.events, 'event')} of store {found.store} and "
        f"{count(found.archived_events, 'event')} in {count(found.archives, 'archived run')} {did}."
    )
    for note in found.notes:
        say(f"Note: {visible(note)}")
    if found.rows:
        rows = count(found.rows, "row of a read model has", "rows of read models have")
        hope = ", and some of them may be folded again" if found.planned else ""
        say(f"{rows} such data{hope}.")
    if not found.remaining:
        if not found.planned:
            say("Everything was read back: nothing is left.")
        return
    left = "would be left" if found.planned else "is left"
    rows = ", where each row counts" if found.remaining > len(found.places) else ""
    say(f"Something {left} in {count(found.remaining, 'place')}{rows}:")
    for place in found.places[:20]:
        say(f"  {visible(place.in_words())}")
    if len(found.places) > 20:
        say("  … --output json lists up to a hundred of them.")
