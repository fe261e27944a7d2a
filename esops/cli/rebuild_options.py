"""What `esops rebuild` can be asked for: its options in groups, and the request that they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from esops.cli.option_groups import option_group
from esops.cli.options import (
    LongestSession,
    accept_code_option,
    dry_run_option,
    keys_from_option,
    keys_option,
    max_dead_letters_option,
    report_option,
    streams_option,
    yes_option,
)
from esops.cli.shared import duration_if_given

if TYPE_CHECKING:
    from esops.cli.limits import LimitOptions
    from esops.cli.snapshot_options import SnapshotOptions
    from esops.rebuild.api import Action, RebuildRequest


@option_group()
class ActionOptions:
    """What is done: begin, resume or abort, and how it is confirmed."""

    blue_green: Annotated[
        bool,
        typer.Option(
            "--blue-green", help="Build beside the version that serves, verify, and switch."
        ),
    ] = False
    changed: Annotated[
        bool,
        typer.Option(
            "--changed",
            help="Rebuild those that `esops plan` says need it, of the ones named or of all.",
        ),
    ] = False
    dry_run: Annotated[
        bool, dry_run_option("Print the plan, with every statement, and change nothing.")
    ] = False
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished rebuild.")] = (
        False
    )
    accept_code: Annotated[
        bool,
        accept_code_option(
            "With --resume: continue with changed code; the rows so far stay as the old code made "
            "them."
        ),
    ] = False
    abort: Annotated[
        bool,
        typer.Option("--abort", help="End an unfinished rebuild and drop what it built."),
    ] = False
    yes: Annotated[
        bool, yes_option("Do not ask before tables are dropped (--abort) or emptied (in place).")
    ] = False
    longest_session: LongestSession = None

    def action(self) -> Action:
        """What is done with a rebuild. Raises UsageError."""
        from esops.errors import UsageError

        if self.resume and self.abort:
            raise UsageError("--resume and --abort cannot be used together")
        return "resume" if self.resume else "abort" if self.abort else "begin"


@option_group(panel="Loading")
class LoadOptions:
    """How the events are applied."""

    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            metavar="N",
            help="Commit after at most N events. Default: decided by time and memory.",
        ),
    ] = None
    workers: Annotated[
        str | None,
        typer.Option(
            "--workers",
            metavar="N|auto",
            help="Load with N processes (only folds that are keyed by the stream). auto: as many "
            "as are worth it, by a short measurement. Default: auto above a million events, "
            "else 1.",
        ),
    ] = None
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="dask://HOST:PORT|local",
            help="Load on the workers of a Dask cluster (needs esops[dask]).",
        ),
    ] = None
    ranges: Annotated[
        int | None,
        typer.Option(
            "--ranges",
            min=1,
            metavar="N",
            help="In place: replace the rows in N ranges of keys, and empty nothing (only folds "
            "that are keyed by the stream).",
        ),
    ] = None

    def number_of_workers(self) -> int | Literal["auto"] | None:
        """How many processes load. Raises UsageError."""
        from esops.errors import UsageError

        text = self.workers
        if text is None:
            return None
        if text == "auto":
            return "auto"
        if not text.isdecimal() or int(text) < 1:
            raise UsageError(
                f"--workers {text} is no number of processes",
                hint="Write a number from 1 on, or auto.",
            )
        return int(text)


@option_group(panel="Verification and switch")
class SwitchOptions:
    """What has to be so before green serves, and what becomes of blue."""

    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="METHOD",
            help="exact, columns (only those that both have), sample, counts or none. Default: "
            "exact if the columns allow it.",
        ),
    ] = None
    max_diff: Annotated[
        str | None,
        typer.Option(
            "--max-diff",
            metavar="N|P%",
            help="Switch although up to N rows, or P percent of them, differ. Default: 0.",
        ),
    ] = None
    max_dead_letters: Annotated[
        str | None,
        max_dead_letters_option(
            "Switch although up to N events, or P percent of them, became dead letters. Default: 0."
        ),
    ] = None
    report: Annotated[Path | None, report_option("Also write the differences as a page.")] = None
    switch_lag: Annotated[
        int | None,
        typer.Option(
            "--switch-lag",
            min=0,
            metavar="N",
            help="Switch when green is at most N events behind. Default: 100.",
        ),
    ] = None
    no_switch: Annotated[
        bool,
        typer.Option(
            "--no-switch", help="Build and verify; leave the switch to `projection switch`."
        ),
    ] = False
    postpone: Annotated[
        bool,
        typer.Option("--postpone", help="Keep up, and switch only after `projection switch-now`."),
    ] = False
    test_only: Annotated[
        bool,
        typer.Option(
            "--test-only",
            help="Build and verify, then drop green again: everything but the switch.",
        ),
    ] = False
    keep_blue: Annotated[
        bool,
        typer.Option("--keep-blue", help="Keep blue until `projection retire` (the default)."),
    ] = False
    retire_after: Annotated[
        str | None,
        typer.Option(
            "--retire-after",
            metavar="D",
            help="Let `esops run` drop blue this long after the switch, for example 7d.",
        ),
    ] = None
    without_archived: Annotated[
        bool,
        typer.Option(
            "--without-archived",
            help="Rebuild without the events that were archived and removed.",
        ),
    ] = False
    accept_fewer: Annotated[
        bool,
        typer.Option(
            "--accept-fewer",
            help="Accept far fewer events than before, or none, or no row.",
        ),
    ] = False
    accept_shortened: Annotated[
        bool,
        typer.Option(
            "--accept-shortened",
            help="Rebuild though streams have lost their first events (compacted, truncated).",
        ),
    ] = False
    processor_stopped: Annotated[
        bool,
        typer.Option(
            "--processor-stopped",
            help="Hand over to the application's projector though its row does not say that it "
            "has stopped: no process of it is left.",
        ),
    ] = False


@option_group(panel="Only some rows")
class RowOptions:
    """The rows that are made right, where not the whole read model is rebuilt."""

    keys: Annotated[
        str | None,
        keys_option("Make only the rows of these keys right, in the version that serves."),
    ] = None
    keys_from: Annotated[
        Path | None,
        keys_from_option("The same for the keys in a file, one a line; - is standard input."),
    ] = None
    streams: Annotated[str | None, streams_option("The same for the rows of these streams.")] = None
    from_check: Annotated[
        int | None,
        typer.Option(
            "--from-check",
            metavar="RUN",
            help="The same for the rows that this `projection check` found wrong.",
        ),
    ] = None

    def given(self) -> bool:
        """Whether only some rows are meant."""
        named = (self.keys, self.keys_from, self.streams, self.from_check)
        return any(each is not None for each in named)


def request_of(
    store: str | None,
    action: ActionOptions,
    load: LoadOptions,
    switch: SwitchOptions,
    snapshots: SnapshotOptions,
    limits: LimitOptions,
) -> RebuildRequest:
    """The rebuild of a whole read model. Raises UsageError."""
    from esops.errors import UsageError
    from esops.rebuild.api import RebuildRequest

    if action.longest_session is not None:
        raise UsageError(
            "--longest-session is for single rows", hint="Name them: --keys, or --streams."
        )
    return RebuildRequest(
        action=action.action(),
        in_place=not action.blue_green,
        store=store,
        # None, here and below: not given, so that a resumed rebuild keeps what it began with.
        switch=False if switch.no_switch else None,
        switch_lag=switch.switch_lag,
        compare=switch.compare,
        max_diff=switch.max_diff,
        max_dead_letters=switch.max_dead_letters,
        batch_size=load.batch_size,
        workers=load.number_of_workers(),
        engine=load.engine,
        ranges=load.ranges,
        max_rate=limits.max_rate,
        max_load=limits.max_load,
        max_lag_bytes=limits.max_lag_bytes,
        nice=limits.nice,
        postpone=switch.postpone or None,
        test_only=switch.test_only or None,
        without_archived=switch.without_archived or None,
        accept_fewer=switch.accept_fewer or None,
        accept_shortened=switch.accept_shortened or None,
        accept_code=action.accept_code or None,
        processor_stopped=switch.processor_stopped or None,
        snapshot_wait=snapshots.limit(),
        despite_snapshots=snapshots.despite_snapshots or None,
        keep_blue=switch.keep_blue,
        retire_after=duration_if_given("--retire-after", switch.retire_after),
    )
