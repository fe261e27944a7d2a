"""`esops schema check`: does every event fit the schema of its type?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import command, current_output
from esops.cli.option_groups import Wording, option_group
from esops.cli.schema import schema
from esops.cli.schema_options import ProgressOptions, SelectedEvents
from esops.cli.shared import JobProgress, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esops.config import Config
    from esops.schema.checking.history import SchemaCheckResult
    from esops.term import Output

_SHOWN = 40
"""Lines of a table; --output json has all."""


@option_group(panel="Files")
class FileOptions:
    """Where else the result is written."""

    sarif: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Also write SARIF 2.1.0.")
    ] = None
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics",
            metavar="FILE",
            help="Also write Prometheus' text, for a textfile collector.",
        ),
    ] = None

    def check(self) -> None:
        """Raises UsageError where they cannot be written, or are the same file."""
        from esops.errors import UsageError
        from esops.term.result_file import checked

        checked(self.sarif, "--sarif")
        checked(self.metrics, "--metrics")
        if self.sarif is None or self.metrics is None:
            return
        if self.sarif.resolve() == self.metrics.resolve():
            raise UsageError("--sarif and --metrics name the same file")

    def write(self, found: SchemaCheckResult, *, allow_unknown: bool) -> None:
        """Write what was found."""
        from esops.term import to_json
        from esops.term.result_file import write_page

        if self.sarif is not None:
            from esops.schema.checking.sarif import sarif as log_of

            log = to_json(log_of(found, schemaless=not allow_unknown), indent=True)
            write_page(self.sarif, log + "\n", "--sarif")
        if self.metrics is not None:
            from esops.schema.checking.metrics import text

            write_page(self.metrics, text(found), "--metrics")


@command(schema)
def check(
    context: typer.Context,
    against: Annotated[
        Path,
        typer.Option("--against", metavar="DIR", help="The directory of JSON Schema files."),
    ] = Path("schemas"),
    *,
    which: Annotated[
        SelectedEvents,
        Wording(
            category="Check only events of this category.",
            types="Check only events of this type; can be repeated.",
        ),
    ],
    progress: Annotated[
        ProgressOptions,
        Wording(
            since_last="Read only what is new since the last such check, and keep how far this "
            "one comes."
        ),
    ],
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Event types without a schema are no finding.")
    ] = False,
    files: FileOptions,
) -> int:
    """Check all events against the JSON Schema of their type.

    esops schema check
    esops schema check --against schemas/ --since-last --output json
    esops schema check --against schemas/ --sarif schema.sarif

    An event has to fit one of the schemas of its type, formats included. What events break is
    grouped by type, path and rule, with the first events of each group; no value of an event is
    shown. Exit code 1 when an event breaks a rule, or a type has no schema.
    """
    from esops.config import load_config
    from esops.errors import UsageError

    output = current_output(context)
    output.format("table", "json")
    if progress.from_start and not progress.since_last:
        raise UsageError("--from-start is for --since-last", hint="Without it, all is read anyway.")
    files.check()
    config = load_config(output.settings.config)
    found = _read(output, config, against, which, progress)
    files.write(found, allow_unknown=allow_unknown)
    _show(output, found, allow_unknown=allow_unknown)
    return _exit_code(found, allow_unknown=allow_unknown)


def _read(
    output: Output,
    config: Config,
    against: Path,
    which: SelectedEvents,
    progress: ProgressOptions,
) -> SchemaCheckResult:
    """Check the events that were asked for, with a progress line."""
    from esops.schema.checking.run import JOB, SchemaCheck
    from esops.schema.files import read_schemas
    from esops.schema.progress import progress_of
    from esops.stores.one_tenant import open_for

    name, settings = config.store(output.settings.store)
    schemas, selection = read_schemas(against), which.selection()
    stop, line = stop_on_signals(), JobProgress(output)
    with open_for(name, settings, which.tenant) as store:
        kept = None
        if progress.since_last:
            place = {
                "against": str(against),
                "category": which.category,
                "types": sorted(selection.types),
                "tenant": which.tenant,
            }
            kept = progress_of(store, settings, JOB, place)
        try:
            return SchemaCheck(
                store,
                schemas,
                selection,
                lambda done, total: line.update("events", done, total),
                stop.is_set,
                kept,
            ).run(from_start=progress.from_start)
        finally:
            line.close()


def _exit_code(found: SchemaCheckResult, *, allow_unknown: bool) -> int:
    from esops.errors import Stopped

    if found.stopped:
        raise Stopped(
            f"the check was stopped at {found.position or 'the beginning'}",
            hint="With --since-last, the next one continues there.",
        )
    if found.short is not None:
        raise found.short
    return 1 if found.violations or (found.schemaless and not allow_unknown) else 0


def _show(output: Output, found: SchemaCheckResult, *, allow_unknown: bool) -> None:
    for each in found.notes:
        output.say(each)
    if output.format("table", "json") == "json":
        output.json(found.as_dict())
        return
    _tables(output, found)
    if found.unused:
        output.say(
            f"there is no event of these types, which have a schema: {_some(found.unused)}", "dim"
        )
    output.line(_summary(found, allow_unknown=allow_unknown))


def _tables(output: Output, found: SchemaCheckResult) -> None:
    if found.violations:
        rows = [
            (
                each.type,
                each.path,
                each.rule,
                each.events,
                f"{each.samples[0].stream} version {each.samples[0].version}",
                f"{each.file}:{each.line}",
            )
            for each in sorted(found.violations, key=lambda each: -each.events)[:_SHOWN]
        ]
        columns = ["type", "path", "rule", "events", "first event", "schema"]
        output.table("Events that break a rule of their schema", columns, rows)
        if len(found.violations) > _SHOWN:
            output.say(f"{len(found.violations) - _SHOWN} more: --output json has all", "dim")
    if found.schemaless:
        rest = [
            (each.type, each.events, f"{each.first.stream} version {each.first.version}")
            for each in sorted(found.schemaless, key=lambda each: -each.events)[:_SHOWN]
        ]
        output.table(
            "Event types without a schema",
            ["type", "events", "first event"],
            rest,
            apart=bool(found.violations),
        )


def _summary(found: SchemaCheckResult, *, allow_unknown: bool) -> str:
    from esops.wording import count

    read = f"{count(found.events, 'event')} of store {found.store} read"
    if found.since is not None:
        read += f" ({found.total:,} with those of earlier checks)"
    problems = []
    if found.violations:
        groups = len(found.violations)
        problems.append(count(groups, "rule is broken", "rules are broken"))
    if found.schemaless and not allow_unknown:
        types = len(found.schemaless)
        problems.append(
            count(types, "event type has no schema", "event types have no schema")
            + " (write one with `esops schema infer`, or add --allow-unknown)"
        )
    if problems:
        return f"{read}: {'; '.join(problems)}"
    return f"{read}: all that have a schema fit it" if found.schemaless else f"{read}: all fit"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
