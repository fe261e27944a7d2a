"""`esops trace`: what happened because of something, and why."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

import typer

from esops.cli.app import command, current_output, group
from esops.cli.shared import complete_store, duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from esops.config import Config
    from esops.term import Output
    from esops.trace.search import Trace, Tracer

trace = group(
    "trace",
    "What happened because of something: by correlation id, event or stream.",
    "esops trace correlation 0b1c2a4e-8f6d-4c55-9d0e-3a2b1c0d9e8f",
)

Form = Literal["tree", "timeline", "json", "mermaid", "dot", "html", "otlp"]
_FORM = typer.Option(
    None, "--format", help="How it is shown; left out: a tree, or JSON with --output json."
)
_STORES = typer.Option(
    None,
    "-s",
    "--store",
    metavar="NAME",
    help="Search this store; may be repeated. `all`: all of the configuration's.",
    autocompletion=complete_store,
)
_OWN = ("store_",)
_SCAN = typer.Option(
    False, "--scan", help="Go on where no index answers, however many events are looked at."
)
_LIMIT = typer.Option(10_000, "--limit", metavar="N", min=1, help="At most N events.")
_AROUND = typer.Option(
    None,
    "--around",
    metavar="D",
    help="Also what else happened so shortly before and after, in the timeline.",
)


@command(trace, own=_OWN, renamed={"--to": "--output-file"})
def correlation(
    context: typer.Context,
    id: str = typer.Argument(
        ..., help="A correlation id, a W3C trace id, or message-db's correlation stream."
    ),
    form: Form | None = _FORM,
    stores: list[str] | None = _STORES,
    around: str | None = _AROUND,
    scan: bool = _SCAN,
    limit: int = _LIMIT,
) -> int:
    """Show everything that carries a correlation id, as a tree of causes.

    esops trace correlation 0b1c2a4e-8f6d-4c55-9d0e-3a2b1c0d9e8f

    Exits with 1 where there is nothing of it.
    """
    return _run(context, lambda tracer: tracer.correlation(id), form, stores, around, scan, limit)


@command(trace, own=_OWN, renamed={"--to": "--output-file"})
def event(
    context: typer.Context,
    id: str = typer.Argument(..., help="The event's id."),
    form: Form | None = _FORM,
    stores: list[str] | None = _STORES,
    around: str | None = _AROUND,
    scan: bool = _SCAN,
    limit: int = _LIMIT,
) -> int:
    """Show what led to an event, and what came of it.

    esops trace event 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9

    Exits with 1 where there is no such event.
    """
    return _run(context, lambda tracer: tracer.event(id), form, stores, around, scan, limit)


@command(trace, own=_OWN, renamed={"--to": "--output-file"})
def stream(
    context: typer.Context,
    name: str = typer.Argument(..., help="The stream."),
    form: Form | None = _FORM,
    stores: list[str] | None = _STORES,
    around: str | None = _AROUND,
    scan: bool = _SCAN,
    limit: int = _LIMIT,
) -> int:
    """Show a stream's events with what led to them and what came of them in other streams.

    esops trace stream ShoppingCart-2b2210d1 --format timeline

    Exits with 1 where there is no such stream.
    """
    return _run(context, lambda tracer: tracer.stream(name), form, stores, around, scan, limit)


def _run(
    context: typer.Context,
    ask: Callable[[Tracer], Trace],
    form: Form | None,
    stores: list[str] | None,
    around: str | None,
    scan: bool,
    limit: int,
) -> int:
    from esops.config import load_config
    from esops.errors import UsageError
    from esops.stores import open_store
    from esops.trace.graph import Keys
    from esops.trace.search import Tracer

    output = current_output(context)
    config = load_config(output.settings.config)
    if form == "html" and output.data.is_terminal:
        raise UsageError(
            "--format html is a page of some megabytes", hint="Write it to a file: -o trace.html."
        )
    wanted: Form = form or ("json" if output.format("table", "json") == "json" else "tree")
    with ExitStack() as stack:
        opened = [
            stack.enter_context(open_store(name, config.stores[name]))
            for name in _names(config, output, stores)
        ]
        tracer = Tracer(
            opened,
            Keys(config.trace.correlation, config.trace.causation),
            scan_limit=2**63 if scan else config.trace.scan_limit,
            limit=limit,
            say=output.say,
        )
        found = ask(tracer)
        lines = list(_lines(output, found, wanted))
        if around is not None and found.forest.nodes and wanted in ("tree", "timeline"):
            lines += _neighbours(tracer, found, around)
    if not found.forest.nodes:
        output.say(
            f"there is nothing of {found.about} in {', '.join(each.name for each in opened)}"
        )
        return 1
    for line in lines:
        output.data.print(line, markup=False)
    if output.file is not None:
        output.say(f"written: {output.file.path}")
    _remark(output, found)
    return 0


def _names(config: Config, output: Output, stores: list[str] | None) -> list[str]:
    if not stores:
        return [config.store(output.settings.store)[0]]
    return list(config.stores) if stores == ["all"] else [config.store(name)[0] for name in stores]


def _lines(output: Output, found: Trace, form: Form) -> list[object]:
    from esops.term import to_json
    from esops.trace import render

    if form == "json":
        return [
            to_json(
                render.as_dict(found), indent=output.data.is_terminal or output.file is not None
            )
        ]
    if form == "otlp":
        return [to_json(render.otlp(found))]
    if form == "html":
        from esops.trace.page import trace_page

        return [trace_page(found)]
    if form == "mermaid":
        return list(render.mermaid(found.forest))
    if form == "dot":
        return list(render.dot(found.forest))
    return _coloured(found, form)


def _coloured(found: Trace, form: Form) -> list[object]:
    from rich.text import Text

    from esops.trace import render

    colours = render.categories(found.forest)
    several = len({each.store for each in found.forest.nodes}) > 1
    lines: list[object] = []
    if form == "tree":
        for before, each, since in render.tree(found.forest):
            where = f"{each.store}/" * several + f"{each.stream} @{each.version}"
            at = f"{each.recorded_at:%Y-%m-%d %H:%M:%S.%f}"[:-3] if each.recorded_at else ""
            line = Text.assemble(
                (before, "dim"),
                (each.type, colours[each.category]),
                f"  {where}  ",
                (since or at, "dim"),
            )
            if not before and each.cause is not None:
                line.append(
                    f"  its cause {each.cause} is missing"
                    if each.cause in found.forest.missing
                    else "  cut from a circle",
                    "red",
                )
            lines.append(line)
        return lines
    for since, timed, depth in render.timeline(found.forest):
        if timed is None:
            lines.append(Text(f"{since:>14}  later", "bold yellow"))
            continue
        where = f"{timed.store}/" * several + f"{timed.stream} @{timed.version}"
        lines.append(
            Text.assemble(
                (f"{since:>14}  ", "dim"),
                "  " * depth,
                (timed.type, colours[timed.category]),
                f"  {where}",
            )
        )
    return lines


def _neighbours(tracer: Tracer, found: Trace, around: str) -> list[object]:
    others = sorted(
        tracer.neighbours(found, duration("--around", around)),
        key=lambda each: (str(each.recorded_at), each.store, each.order),
    )
    lines: list[object] = ["", f"What else happened within {around}: {len(others):,} events"]
    lines += [
        f"  {each.recorded_at:%H:%M:%S.%f}  {each.type}  {each.stream} @{each.version}"
        for each in others
    ]
    return lines


def _remark(output: Output, found: Trace) -> None:
    forest = found.forest
    if found.limited:
        output.say(
            f"there is more: the limit of {len(forest.nodes):,} events was reached (--limit)"
        )
    if forest.missing:
        output.say(
            "causes that are not there: "
            + ", ".join(forest.missing[:5])
            + (", …" if len(forest.missing) > 5 else "")
        )
    for circle in forest.circles[:5]:
        output.say("events cause each other: " + ", ".join(forest.nodes[at].id for at in circle))
    if forest.duplicates:
        output.say("ids that several events have: " + ", ".join(forest.duplicates[:5]))
    for remedy in found.remedies:
        output.say(f"no index answered; this would make one: {remedy}")
