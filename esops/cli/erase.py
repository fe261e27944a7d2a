"""`esops erase`: erase a person's data from events, archives and read models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from esops.cli.app import app, command, current_output
from esops.cli.completion import complete_stream
from esops.cli.shared import confirm, stop_on_signals

if TYPE_CHECKING:
    from esops.erasing.run import EraseOutcome, EraseRequest
    from esops.term import Output

_WHOSE = "Whose data"


@command(app)
def erase(
    context: typer.Context,
    stream: list[str] | None = typer.Option(
        None,
        "--stream",
        metavar="S,…",
        help="The events of these streams; can be repeated.",
        autocompletion=complete_stream,
        rich_help_panel=_WHOSE,
    ),
    streams_from: Path | None = typer.Option(
        None,
        "--streams-from",
        metavar="FILE",
        help="The streams that a file names, one a line; - for stdin.",
        rich_help_panel=_WHOSE,
    ),
    where: list[str] | None = typer.Option(
        None,
        "--where",
        metavar="'JSONPATH=VALUE'",
        help="The events that have this value; can be repeated.",
        rich_help_panel=_WHOSE,
    ),
    list_: Path | None = typer.Option(
        None,
        "--list",
        metavar="FILE",
        help="Such conditions from a file, one a line; - for stdin. The value is then in no list "
        "of processes.",
        rich_help_panel=_WHOSE,
    ),
    rule: list[str] | None = typer.Option(
        None,
        "--rule",
        metavar="NAME",
        help="Only this rule of [erase.NAME]; can be repeated. Default: all that fit.",
    ),
    reason: str | None = typer.Option(
        None,
        "--reason",
        metavar="TEXT",
        help="What the new seals of archives say, such as the number of the request.",
    ),
    done: int | None = typer.Option(
        None,
        "--done",
        metavar="N",
        help="Say that the places which erasure N has named are cleared. Later runs of the same "
        "request then stop naming them.",
    ),
    dry_run: bool = typer.Option(False, "-n", "--dry-run", help="Show the plan and stop."),
    yes: bool = typer.Option(False, "-y", "--yes", help="Do not ask for confirmation."),
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
    if done is not None:
        store = confirm_done(config, output.settings.store, done)
        output.line(f"Erasure {done} of store {store} is done: what it named counts as cleared.")
        return 0
    request = _request(stream, streams_from, where, list_, rule, reason)
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


def _request(
    streams: list[str] | None,
    streams_from: Path | None,
    where: list[str] | None,
    list_: Path | None,
    rules: list[str] | None,
    reason: str | None,
) -> EraseRequest:
    from esops.erasing.run import EraseRequest
    from esops.errors import UsageError
    from esops.json_paths import split_condition

    names = [name for each in streams or () for name in each.split(",") if name]
    names += _lines("--streams-from", streams_from)
    conditions = []
    for option, texts in (("--where", where or []), ("--list", _lines("--list", list_))):
        for text in texts:
            try:
                conditions.append(split_condition(text))
            except ValueError as error:
                raise UsageError(f"{option}: {error}") from None
    request = EraseRequest(tuple(names), tuple(conditions), tuple(rules or ()))
    if reason is None:
        return request
    return EraseRequest(request.streams, request.conditions, request.rules, reason)


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
