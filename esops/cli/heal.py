"""`esops rebuild NAME --keys …`: only some rows."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from esops.cli.shared import confirm, stop_on_signals

if TYPE_CHECKING:
    from esops.check.heal import Healed
    from esops.check.healing import HealRequest
    from esops.check.result import CheckResult
    from esops.check.served_rows import RowKey
    from esops.config import Config
    from esops.running.throttle import Limits
    from esops.term import Output

_NAMED = 5


def only(config: Config, names: Sequence[str], given: Collection[str]) -> str:
    """The one projection whose rows are meant. Raises UsageError where there are several, or where
    an option was given that is for a whole rebuild.
    """
    from esops.cli.limits import LimitOptions
    from esops.cli.option_groups import option_names
    from esops.cli.rebuild_options import RowOptions
    from esops.errors import UsageError

    ours = {"projection", "dry_run", "yes", "processor_stopped", "longest_session"}
    others = sorted(set(given) - ours.union(option_names(RowOptions), option_names(LimitOptions)))
    if others:
        option = "--" + others[0].replace("_", "-")
        raise UsageError(
            f"{option} is for the rebuild of a whole read model, and --keys and --streams make "
            "single rows of the version that serves right",
            hint=f"Leave out {option}, or the keys.",
        )
    named = list(names) or list(config.projections)
    if len(named) != 1:
        raise UsageError(
            "--keys and --streams are of one projection, and "
            + ("none is named" if not names else "several are named"),
            hint=f"Projections: {', '.join(config.projections)}.",
        )
    return named[0]


def selected(
    keys: str | None, keys_from: Path | None, streams: str | None, from_check: int | None = None
) -> HealRequest:
    """The rows that the options name. Raises UsageError where these cannot be read, or are none."""
    from esops.check.healing import HealRequest
    from esops.errors import UsageError

    wanted = [] if keys is None else [_key(each) for each in _listed(keys)]
    if keys_from is not None:
        wanted += [_key(line) for line in _lines(keys_from)]
    named = [] if streams is None else _listed(streams)
    if not wanted and not named and from_check is None:
        raise UsageError("no key and no stream is named")
    return HealRequest(keys=wanted, streams=named, from_check=from_check)


def _listed(text: str) -> list[str]:
    from esops.errors import UsageError

    if text.lstrip().startswith("["):
        try:
            return [json.dumps(each) for each in json.loads(f"[{text}]")]
        except ValueError:
            return [text]
    # As in a line of CSV: a key with a comma stands in quotes.
    try:
        return [each for line in csv.reader([text]) for each in line if each]
    except csv.Error:
        raise UsageError(
            f"{text!r} has more than one line", hint="Write a key a line: --keys-from FILE."
        ) from None


def _lines(path: Path) -> Iterator[str]:
    from esops.errors import UsageError

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--keys-from {path} cannot be read: {error}") from None
    # Some programs begin a file with a mark; and keys may have what else ends a line.
    lines = (line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n"))
    return (line for line in lines if line.strip())


def _key(text: str) -> RowKey:
    """A key of one value as it is, or of several as an array of JSON. Raises UsageError for what
    no text in Postgres can be.
    """
    from esops.errors import UsageError

    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise UsageError(f"{text!r} is no key: it is not a text of UTF-8")
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            return (text,)
        if isinstance(found, list) and None in found:
            raise UsageError(f"{text} is no key: a part of it is null")
        if isinstance(found, list) and len(found) > 1:
            return tuple(each if isinstance(each, str) else json.dumps(each) for each in found)
    return (text,)


def heal_rows(output: Output, name: str, request: HealRequest, *, dry_run: bool, yes: bool) -> int:
    """Compare the rows, show what differs, ask, and make them right; returns the exit code."""
    from dataclasses import replace

    from esops.check.healing import heal
    from esops.config import load_config
    from esops.wording import count

    config, stop = load_config(output.settings.config), stop_on_signals()

    def run(*, write: bool) -> Healed:
        return heal(
            config,
            name,
            replace(request, write=write),
            store=output.settings.store,
            stop=stop.is_set,
            say=output.say,
        )

    if dry_run or not yes:
        found = run(write=False)
        differing = sum(map(len, found.differing.values()))
        _show_plan(output, found, dry_run=dry_run)
        if dry_run or not differing:
            return 1 if found.unknown or found.absent else 0
        confirm(
            f"Write {count(differing, 'row')} of {name}?",
            yes=False,
            what="making rows right writes to the table that serves",
        )
    done = run(write=True)
    if output.as_json:
        output.json(done.as_dict())
    else:
        _show_done(output, done)
    return 1 if done.unknown or done.unfit or done.absent else 0


def heal_found(
    output: Output,
    config: Config,
    result: CheckResult,
    limits: Limits,
    longest_session: timedelta | None,
    *,
    yes: bool,
    stop: Callable[[], bool],
) -> bool:
    """Make the rows right that a check found wrong; returns whether all of them are."""
    from dataclasses import replace

    from esops.check.healing import HealRequest, heal
    from esops.wording import count

    found = result.found
    confirm(
        f"Make {count(found.differing, 'row')} of {result.projection} right?",
        yes=yes,
        what="making rows right writes to the table that serves",
    )
    request = HealRequest(
        from_check=result.check, wrong=() if result.check else found.wrong, limits=limits
    )
    if longest_session is not None:
        request = replace(request, longest_session=longest_session)
    done = heal(config, result.projection, request, stop=stop, say=output.say)
    left = len(done.unknown) + len(done.unfit) + max(0, found.differing - len(found.wrong))
    # Some may have been made right by others since: what counts is what is left.
    result.healed = max(0, found.differing - left)
    if not output.as_json:
        _show_done(output, done)
    return not left


def _show_done(output: Output, done: Healed) -> None:
    from esops.wording import count

    output.line(
        f"{count(done.rows, 'row')} of {done.projection} v{done.version} made right at position "
        f"{done.position} ({done.inserted} inserted, {done.updated} updated, {done.deleted} "
        f"deleted); {count(done.keys, 'key')} compared"
    )
    _show_left(output, done)


def _show_plan(output: Output, found: Healed, *, dry_run: bool) -> None:
    from esops.wording import count

    if output.as_json:
        if dry_run:
            output.json({**found.as_dict(), "statements": list(found.statements)})
        return
    differing = sum(map(len, found.differing.values()))
    output.line(
        f"{found.projection} v{found.version} at position {found.position}: "
        f"{count(differing, 'row')} of {count(found.keys, 'key')} differ from the events"
    )
    for action, keys in found.differing.items():
        if keys:
            shown = ", ".join(",".join(key) for key in keys[:_NAMED])
            more = ", …" if len(keys) > _NAMED else ""
            output.line(f"  {action} {count(len(keys), 'row')}: {shown}{more}")
    if dry_run and differing:
        for statement in found.statements:
            output.line(f"  {statement};")
    _show_left(output, found)
    if dry_run:
        output.line("\nNothing was changed (--dry-run).")


def _show_left(output: Output, found: Healed) -> None:
    if found.absent:
        from esops.wording import count

        shown = ", ".join(",".join(key) for key in found.absent[:_NAMED])
        shown += ", …" if len(found.absent) > _NAMED else ""
        have = "has" if len(found.absent) == 1 else "have"
        output.line(
            f"  {count(len(found.absent), 'key')} {have} no row, neither in the read model nor by "
            f"the events: {shown}"
        )
    for key, why in [*sorted(found.unknown.items()), *sorted(found.unfit.items())][:20]:
        output.line(f"  left as it is: {','.join(key)}: {why}")
    more = len(found.unknown) + len(found.unfit) - 20
    if more > 0:
        output.line(f"  and {more} more")
