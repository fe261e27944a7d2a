"""`esops archive plan` and `run`: what a policy moves into an archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from esops.cli import archive_text as text
from esops.cli.app import command, current_output
from esops.cli.archive import archive
from esops.cli.completion import complete_policy
from esops.cli.option_groups import option_group
from esops.cli.shared import JobProgress, duration_if_given, stop_on_signals

if TYPE_CHECKING:
    from datetime import timedelta

    from esops.settings import Removal

PolicyName = Annotated[
    str,
    typer.Argument(
        help="The policy: its name in [archives.NAME.policies].", autocompletion=complete_policy
    ),
]


@option_group()
class RemovalOptions:
    """What becomes of the streams in the store."""

    remove: Annotated[
        str | None,
        typer.Option(
            "--remove",
            metavar="HOW",
            help="What happens to the streams in the store: keep, delete, archive, truncate or "
            "tombstone. Default: as the policy says.",
        ),
    ] = None
    despite: Annotated[
        list[str] | None,
        typer.Option(
            "--despite",
            metavar="NAME",
            help="Remove events although the projection or processor of this name has not read "
            "them yet; repeatable.",
        ),
    ] = None

    def removal(self) -> Removal | None:
        """How they are removed; None is as the policy says. Raises UsageError."""
        from typing import get_args

        from esops.errors import UsageError, nearest
        from esops.settings import Removal

        removals = get_args(Removal)
        if self.remove is not None and self.remove not in removals:
            raise UsageError(
                f"--remove cannot be {self.remove!r}", hint=nearest(self.remove, removals)
            )
        return cast("Removal | None", self.remove)


@option_group()
class RunOptions:
    """What a run asks before it removes anything, and what it does with an unfinished one."""

    despite_checkpoints: Annotated[
        bool,
        typer.Option(
            "--despite-checkpoints",
            help="Remove events without asking any projection or processor how far it has read.",
        ),
    ] = False
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Before anything is removed, try a restore of all events in temporary tables, "
            "not of a sample.",
        ),
    ] = False
    start_again: Annotated[
        bool,
        typer.Option(
            "--start-again",
            help="Give an unfinished run up as failed instead of resuming it, for example because "
            "the store was restored to an earlier time since.",
        ),
    ] = False
    new_archive: Annotated[
        bool,
        typer.Option(
            "--new-archive",
            help="Begin an archive where there is none, although the store shows that events were "
            "archived before.",
        ),
    ] = False
    max_duration: Annotated[
        str | None,
        typer.Option(
            "--max-duration",
            metavar="D",
            help="Stop after this time, such as 2h. The next run resumes.",
        ),
    ] = None

    def limit(self) -> timedelta | None:
        """After how long it stops. Raises UsageError."""
        return duration_if_given("--max-duration", self.max_duration)


@command(archive)
def plan(
    context: typer.Context,
    policy: PolicyName,
    removal: RemovalOptions,
    *,
    streams: Annotated[
        bool,
        typer.Option(
            "--streams",
            help="List each stream with what it would lose and what would stay, one a line.",
        ),
    ] = False,
) -> None:
    """Show what a run would do, and change nothing.

    The plan has the number of streams and events, their size, and each statement that would remove
    them.

    esops archive plan old-carts
    esops archive plan old-carts --streams
    """
    from esops.archive.planning import STREAM_COLUMNS, planned_streams
    from esops.archive.planning import plan as make_plan
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    if streams:
        planned = planned_streams(
            config,
            policy,
            removal.removal(),
            lambda found: text.unfinished(output.say, policy, found),
        )
        # A policy may select millions of streams: a table would need all of them in memory.
        if output.format("table", "json", "ndjson", "csv") == "table":
            text.planned(output, planned)
        else:
            output.records((each.as_row() for each in planned), STREAM_COLUMNS)
        return
    found = make_plan(config, policy, removal.removal(), removal.despite or ())
    if output.format("table", "json") == "json":
        output.json(found.as_dict())
    else:
        text.plan(output, found)


@command(archive)
def run(
    context: typer.Context,
    policy: PolicyName,
    removal: RemovalOptions,
    options: RunOptions,
) -> int:
    """Archive the streams that a policy selects, verify the archive, and then remove them.

    If the policy has an unfinished run, it is resumed, and removes what was selected when it began.
    You can kill a run at any moment.

    Exit code 1 if the verification found a problem: then nothing is removed. Also if a stream may
    not be read, or cannot be removed until the database is changed, as where rows elsewhere refer
    to its events: it is archived once, and named by each run. Exit code 6 if a
    projection or processor has not read the events yet, or if they would not come back from the
    archive as they are: then nothing is removed either. Also if the policy was edited to take less
    than its unfinished run would remove.

    esops archive run old-carts
    esops archive run old-carts --remove keep
    """
    from esops.archive.run import RunRequest
    from esops.archive.run import run as run_policy
    from esops.config import load_config

    output = current_output(context)
    config = load_config(output.settings.config)
    limit = options.limit()
    progress = JobProgress(output)
    try:
        outcome = run_policy(
            config,
            policy,
            RunRequest(
                removal=removal.removal(),
                despite_checkpoints=options.despite_checkpoints,
                despite=removal.despite or (),
                prove=options.prove,
                start_again=options.start_again,
                new_archive=options.new_archive,
                max_duration=limit,
            ),
            stop=stop_on_signals().is_set,
            progress=progress.update,
        )
    finally:
        progress.close()
    if output.format("table", "json") == "json":
        output.json(outcome.as_dict())
    else:
        text.outcome(output, outcome)
    return 1 if outcome.state == "failed" or outcome.stuck else 0
