"""`esops rebuild`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from esops.cli.app import app, command, current_output
from esops.cli.shared import complete_projection, duration, is_interactive, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from esops.backends.base import EventStore
    from esops.config import Config
    from esops.rebuild.outcome import Outcome
    from esops.rebuild.plan import Options, Target
    from esops.settings import ProjectionSettings
    from esops.term import Output, ProgressLine

_HOW = "How it goes about it"
_LIMITS = "What it may take (to be changed while it runs by `projection throttle`)"
_SAMPLES = 3


@command(app)
def rebuild(
    context: typer.Context,
    projection: str | None = typer.Argument(
        None, help="The projection; may be left out where there is one.", autocompletion=complete_projection
    ),
    blue_green: bool = typer.Option(False, "--blue-green", help="Build beside the version that serves, verify, switch."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the plan, with every statement, and change nothing."),
    resume: bool = typer.Option(False, "--resume", help="Go on with an unfinished rebuild."),
    abort: bool = typer.Option(False, "--abort", help="Give an unfinished rebuild up and drop what it built."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask before a table is dropped (--abort) or emptied (in place)."),
    no_switch: bool = typer.Option(
        False, "--no-switch", help="Build and verify, and leave the switch to `projection switch`.", rich_help_panel=_HOW
    ),
    switch_lag: int | None = typer.Option(
        None, "--switch-lag", min=0, metavar="N", help="Switch when at most N events behind (100).", rich_help_panel=_HOW
    ),
    compare: str | None = typer.Option(
        None,
        "--compare",
        metavar="HOW",
        help="exact, columns (those that both have), sample, counts or none; exact where the columns allow it.",
        rich_help_panel=_HOW,
    ),
    max_diff: str | None = typer.Option(
        None, "--max-diff", metavar="N|P%", help="Switch although so many rows differ (0).", rich_help_panel=_HOW
    ),
    batch_size: int | None = typer.Option(
        None,
        "--batch-size",
        min=1,
        metavar="N",
        help="At most N events a checkpoint; left out: by time and memory.",
        rich_help_panel=_HOW,
    ),
    workers: int | None = typer.Option(
        None, "--workers", min=1, metavar="N", help="Load by N processes (folds keyed by the stream).", rich_help_panel=_HOW
    ),
    max_rate: float | None = typer.Option(
        None, "--max-rate", min=1, metavar="EV_S", help="At most so many events a second.", rich_help_panel=_LIMITS
    ),
    max_load: int | None = typer.Option(
        None,
        "--max-load",
        min=0,
        metavar="N",
        help="Wait while more than N other sessions of the read model's server are active.",
        rich_help_panel=_LIMITS,
    ),
    max_lag_bytes: int | None = typer.Option(
        None,
        "--max-lag-bytes",
        min=0,
        metavar="N",
        help="Wait while a replica of it is further behind.",
        rich_help_panel=_LIMITS,
    ),
    nice: float | None = typer.Option(
        None,
        "--nice",
        min=0,
        metavar="R",
        help="Rest R times as long as it works: 1 is half the speed.",
        rich_help_panel=_LIMITS,
    ),
    postpone: bool = typer.Option(
        False, "--postpone", help="Keep up and wait with the switch for `projection switch-now`.", rich_help_panel=_HOW
    ),
    test_only: bool = typer.Option(
        False, "--test-only", help="Build and verify, and drop green again: everything but the switch.", rich_help_panel=_HOW
    ),
    keep_blue: bool = typer.Option(
        False, "--keep-blue", help="Keep blue until `projection retire`; so it is if nothing is said.", rich_help_panel=_HOW
    ),
    report: Path | None = typer.Option(
        None, "--report", metavar="FILE.html", help="Write what differs as a page, too.", rich_help_panel=_HOW
    ),
    retire_after: str | None = typer.Option(
        None, "--retire-after", metavar="D", help="Let `esops run` drop blue so long after the switch.", rich_help_panel=_HOW
    ),
) -> int:
    """Rebuild a read model beside the one that serves, verify it, and switch in one transaction.

    esops rebuild cart_summary --blue-green --dry-run
    esops rebuild cart_summary --blue-green
    esops projection rollback cart_summary

    It can be killed at any moment and gone on with by --resume. Until the switch nothing that readers see is touched.
    Without --blue-green the tables that serve are emptied and filled again, for read models too large to be there twice: readers see it.
    """
    from esops.config import load_config
    from esops.errors import UsageError

    output = current_output(context)
    output.format("table", "json")
    config = load_config(output.settings.config)
    if not blue_green and (no_switch or postpone or test_only or keep_blue or retire_after or max_diff or compare or workers):
        raise UsageError("a rebuild in place has nothing to compare or to switch", hint="Add --blue-green.")
    if resume + abort + dry_run > 1:
        raise UsageError("--resume, --abort and --dry-run exclude each other")
    if test_only + no_switch + postpone > 1 or (keep_blue and retire_after):
        raise UsageError("--test-only, --no-switch and --postpone exclude each other, and so do --keep-blue and --retire-after")
    name = projection or _only(list(config.projections), str(config.path))
    given = {
        "switch_lag": switch_lag,
        "compare": compare,
        "max_diff": max_diff,
        "batch_size": batch_size,
        "workers": workers,
        "max_rate": max_rate,
        "max_load": max_load,
        "max_lag_bytes": max_lag_bytes,
        "nice": nice,
        "switch": False if no_switch else None,
        "postpone": postpone or None,
        "test_only": test_only or None,
        "retire_after": None if retire_after is None else duration("--retire-after", retire_after).total_seconds(),
    }
    options = {key: value for key, value in given.items() if value is not None}
    return _Job(
        output,
        config,
        name,
        options,
        dry_run=dry_run,
        resume=resume,
        abort=abort,
        yes=yes,
        blue_green=blue_green,
        report=report,
    ).run()


def _only(names: list[str], path: str) -> str:
    from esops.errors import UsageError

    if len(names) != 1:
        raise UsageError(f"{path}: which projection?", hint="There is: " + (", ".join(names) or "none") + ".")
    return names[0]


class _Job:
    """One call of the command."""

    def __init__(
        self,
        output: Output,
        config: object,
        name: str,
        options: Mapping[str, object],
        *,
        report: Path | None,
        **ways: bool,
    ) -> None:
        self.output, self.config, self.name, self.options, self.ways = output, config, name, options, ways
        self._report = report
        self._line: ProgressLine | None = None

    def run(self) -> int:
        """Plan, do, and tell."""
        from esops.backends import open_store
        from esops.backends.postgres.connect import connect
        from esops.config import Config
        from esops.errors import UsageError
        from esops.rebuild import external, verify
        from esops.rebuild.plan import Options, make_plan, resolve
        from esops.rebuild.steps import Rebuild

        assert isinstance(self.config, Config)
        options = Options(**self.options)  # type: ignore[arg-type]
        verify.tolerated(verify.Verification("none", 0, 0, 0), options.max_diff)
        if self.config.projection(self.name).kind == "server":
            if not self.ways["blue_green"]:
                raise UsageError("a projection inside its store is rebuilt beside the one that runs", hint="Add --blue-green.")
            return self._run_in_server(self.config, options)
        read_model = self.config.readmodel_of(self.name)
        stop = stop_on_signals()
        with connect(read_model.dsn, f"plan {self.name}") as planning:
            target = resolve(self.config, self.name, self.output.settings.store, planning)
            _, store_settings = self.config.store(target.store_name)
            by_the_application = target.settings.kind == "external"
            with open_store(target.store_name, store_settings) as store:
                if not self.ways["blue_green"] and by_the_application:
                    raise UsageError("what the application builds is rebuilt beside what serves", hint="Add --blue-green.")
                if not self.ways["blue_green"]:
                    return self._run_in_place(target, store, options, planning, stop.is_set)
                planned, work_on = (external.make_plan, external.External) if by_the_application else (make_plan, Rebuild)
                if self.ways["dry_run"]:
                    return self._show_plan(planned(self.config, target, options, store, planning))
                with work_on(target, store, self, stop.is_set) as work:
                    if self.ways["abort"]:
                        return self._abort(work)
                    try:
                        if self.ways["resume"]:
                            outcome = work.resume(self.options)
                        else:
                            plan = planned(self.config, target, options, store, planning)
                            self.output.say("\n".join(plan.lines(statements=self.output.settings.verbose)) + "\n")
                            outcome = work.begin(plan, options)
                    finally:
                        self._close_line()
        self._tell(outcome)
        return 1 if outcome.findings else 0

    def _run_in_place(
        self, target: Target, store: EventStore, options: Options, planning: psycopg.Connection, stop: Callable[[], bool]
    ) -> int:
        from esops.rebuild.inplace import InPlace, lines, tables_of

        head = store.head()
        events = store.count_between(None, head)
        tables = tables_of(planning, self.name, list(target.plains))
        plan = lines(self.name, tables, events, store.capabilities.count_between)
        if self.ways["dry_run"]:
            document = {"projection": self.name, "in_place": True, "tables": tables, "events": events}
            self._show_lines(plan, document)
            return 0
        if not (self.ways["resume"] or self.ways["abort"]):
            self.output.say("\n".join(plan) + "\n")
            self._confirm_in_place(tables)
        with InPlace(target, store, self, stop) as work:
            try:
                if self.ways["abort"]:
                    work.abort()
                outcome = work.resume(self.options) if self.ways["resume"] else work.begin_in_place(options)
            finally:
                self._close_line()
        self._tell(outcome)
        return 1 if outcome.findings else 0

    def _confirm_in_place(self, tables: list[str]) -> None:
        from esops.errors import UsageError

        if self.ways["yes"]:
            return
        if not is_interactive():
            raise UsageError(
                "a rebuild in place empties what readers see, and asks before",
                hint="Add --yes, or --blue-green to build beside it.",
            )
        typer.confirm(f"Empty {', '.join(tables)}, while readers see it?", abort=True, err=True)

    def _run_in_server(self, config: Config, options: Options) -> int:
        from esops.backends import open_store
        from esops.rebuild.server.work import ServerRebuild, as_server, make_plan

        store_name, settings = config.store(self.output.settings.store or config.projection(self.name).store)
        stop = stop_on_signals()
        with open_store(store_name, settings) as opened:
            store = as_server(opened)
            if self.ways["dry_run"]:
                plan = make_plan(config, self.name, store, options)
                self._show_lines(plan.lines(), {"projection": self.name, "to": plan.target.name, "query": plan.query})
                return 0
            work = ServerRebuild(config, self.name, store, self, stop.is_set)
            if self.ways["abort"]:
                self._confirm_abort()
                self._tell(work.abort())
                return 0
            try:
                if self.ways["resume"]:
                    outcome = work.resume(self.options)
                else:
                    plan = make_plan(config, self.name, store, options)
                    self.output.say("\n".join(plan.lines()) + "\n")
                    outcome = work.begin(plan, options)
            finally:
                self._close_line()
        self._tell(outcome)
        return 1 if outcome.findings else 0

    def say(self, text: str) -> None:
        """See Watcher."""
        self.output.say(text)

    def progress(self, done: int, total: int | None) -> None:
        """See Watcher."""
        if self._line is None:
            self._line = self.output.progress(f"rebuild {self.name}: events", done, total)
        self._line.update(done, total)
        if total is not None and done >= total:
            self._close_line()

    def _close_line(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _show_plan(self, plan: object) -> int:
        from esops.rebuild.plan import Plan

        assert isinstance(plan, Plan)
        if self.output.as_json:
            self.output.json(
                {
                    "projection": self.name,
                    "from_version": plan.source.version if plan.source else None,
                    "to_version": plan.to_version,
                    "events": plan.events,
                    "position": None if plan.head is None else str(plan.head),
                    "compare": plan.compare,
                    "statements": [
                        *plan.create,
                        *plan.drop_now,
                        *(each.statement for each in plan.after_load),
                        *plan.switch,
                    ],
                    "notes": list(plan.notes),
                }
            )
        else:
            self._show_lines(plan.lines(), {})
        return 0

    def _show_lines(self, lines: list[str], document: Mapping[str, object]) -> None:
        if self.output.as_json:
            self.output.json(document)
            return
        for line in lines:
            self.output.line(line)
        self.output.line("\nNothing was changed (--dry-run).")

    def _confirm_abort(self) -> None:
        if is_interactive() and not self.ways["yes"]:
            typer.confirm(f"Give up the rebuild of {self.name} and drop what it built?", abort=True, err=True)

    def _abort(self, work: object) -> int:
        from esops.rebuild.steps import Rebuild

        assert isinstance(work, Rebuild)
        self._confirm_abort()
        self._tell(work.abort())
        return 0

    def _tell(self, outcome: Outcome) -> None:
        if self._report is not None and outcome.verification is not None:
            from esops.errors import UsageError
            from esops.rebuild.report import write_report

            try:
                write_report(self._report, outcome)
            except OSError as error:
                raise UsageError(f"--report: {error}") from None
            self.output.say(f"written: {self._report}")
        if self.output.as_json:
            self.output.json(_as_dict(outcome))
            return
        for line in _summary(outcome, self._settings.kind, self._settings.live):
            self.output.line(line)

    @property
    def _settings(self) -> ProjectionSettings:
        from esops.config import Config

        assert isinstance(self.config, Config)
        return self.config.projection(self.name)


def _as_dict(outcome: Outcome) -> dict[str, object]:
    """Under the documented field names."""
    return {
        "rebuild": outcome.rebuild,
        "projection": outcome.projection,
        "state": outcome.state,
        "from_version": outcome.from_version,
        "to_version": outcome.to_version,
        "events": outcome.events,
        "rows": outcome.rows,
        "seconds": round(outcome.seconds, 3),
        "events_per_second": round(outcome.events_per_second),
        "position": None if outcome.position is None else str(outcome.position),
        "verification": outcome.verification,
    }


def _summary(outcome: Outcome, kind: str = "fold", live: str = "esops") -> list[str]:
    from esops.term import duration, to_json

    rows = "partitions" if kind == "server" else "rows"

    name, lines = outcome.projection, []
    found = outcome.verification
    if found is not None and found["method"] != "none":
        where = f" at position {found['position']}" if found.get("position") else ""
        lines.append(
            f"verified ({found['method']}{where}): {found['rows_blue']:,} {rows} in blue, {found['rows_green']:,} in green, "
            f"{found['differing']:,} differ"
        )
        if found.get("note"):
            lines.append(f"  {found['note']}")
        if found.get("compared"):
            lines.append(f"  a sample: {found['compared']:,} pairs of {rows} were looked at")
        for column, count in found.get("expected", {}).items():
            lines.append(f"  column {column}: {count:,} {rows} differ, as expected")
        for column, count in found.get("columns", {}).items():
            lines.append(f"  column {column}: {count:,} {rows} differ")
        lines += [f"  only in blue: {found['only_blue']:,} {rows}"] if found.get("only_blue") else []
        lines += [f"  only in green: {found['only_green']:,} {rows}"] if found.get("only_green") else []
        lines += [f"  for example {to_json(sample)}" for sample in found.get("samples", ())[:_SAMPLES]]
    lines += [f"  assertion failed: {each}" for each in (found or {}).get("failed_assertions", ())]
    did = (
        f"{outcome.events:,} events into {outcome.rows or 0:,} {rows} in {duration(outcome.seconds)} "
        f"({outcome.events_per_second:,.0f} events a second)"
    )
    if outcome.state == "switched":
        back = (
            f"\nTo go back: esops projection rollback {name}. When all is well: esops projection retire {name}."
            if outcome.from_version
            else ""
        )
        keep = (
            "It runs inside the store."
            if kind == "server"
            else "The application keeps it fresh."
            if kind == "external"
            else "The application keeps it fresh: start its projector."
            if live == "app"
            else "`esops run` takes it over within seconds."
            if outcome.followed
            else "Nobody keeps it fresh now: start `esops run`."
        )
        lines.append(f"{name} serves v{outcome.to_version} now: {did}.\n{keep}{back}")
    elif outcome.findings:
        lines.append(
            f"{name} v{outcome.to_version} differs from what serves; nothing was switched: {did}.\n"
            f"Go on with --resume --max-diff N (or P%) if that is what you want, or give it up with --abort."
        )
    elif outcome.state == "aborted":
        left = "what the application built stays" if kind == "external" else "what it built is dropped"
        lines.append(f"rebuild {outcome.rebuild} of {name} is given up; {left}, nothing else was changed.")
    elif outcome.state == "rebuilt":
        lines.append(f"{name} v{outcome.to_version} is rebuilt in place: {did}.\nNobody keeps it fresh now: start `esops run`.")
    elif outcome.state == "tested":
        left = "and left to the application" if kind == "external" else "and dropped again"
        lines.append(f"{name} was built and verified as v{outcome.to_version}, {left} (--test-only): {did}.")
    elif outcome.state == "verified":
        lines.append(
            f"{name} v{outcome.to_version} stands by: {did}.\nSwitch with: esops projection switch {name} --to {outcome.to_version}"
        )
    else:
        lines.append(f"rebuild {outcome.rebuild} of {name} is {outcome.state}: {did}.")
    return lines
