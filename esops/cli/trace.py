"""`esops trace`: what caused an event, and what it caused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from esops.cli.app import command, current_output, group
from esops.cli.completion import complete_store
from esops.cli.option_groups import option_group
from esops.cli.options import EventId, StreamName, Tenant, limit_option
from esops.cli.shared import duration_if_given

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esops.config import Config
    from esops.term import Output
    from esops.trace.search import Trace, Tracer

trace = group(
    "trace",
    "Show what caused an event and what it caused: by correlation id, event or stream.",
    "esops trace correlation 0b1c2a4e-8f6d-4c55-9d0e-3a2b1c0d9e8f",
    "esops trace event 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9",
)

Form = Literal["tree", "timeline", "json", "mermaid", "dot", "html", "otlp"]


@option_group()
class TraceOptions:
    """Where a trace is looked for, and how it is shown."""

    form: Annotated[
        Form | None,
        typer.Option(
            "--format", help="How to show the trace. Default: tree, or json with --output json."
        ),
    ] = None
    stores: Annotated[
        list[str] | None,
        typer.Option(
            "-s",
            "--store",
            metavar="NAME",
            help="Search this store; can be repeated. `all` searches every store of the "
            "configuration.",
            autocompletion=complete_store,
        ),
    ] = None
    around: Annotated[
        str | None,
        typer.Option(
            "--around",
            metavar="D",
            help="Also list other events this long before and after, such as 10m (tree and "
            "timeline).",
        ),
    ] = None
    scan: Annotated[
        bool,
        typer.Option(
            "--scan", help="Allow a search without an index to read any number of events."
        ),
    ] = False
    limit: Annotated[
        int,
        limit_option("Stop when the trace has N events."),
    ] = 10_000
    tenant: Tenant = None


@command(trace)
def correlation(
    context: typer.Context,
    id: Annotated[
        str,
        typer.Argument(
            help="A correlation id, a W3C trace id, or message-db's correlation stream."
        ),
    ],
    options: TraceOptions,
) -> int:
    """Show all events with a correlation id, as a tree of causes.

    Exit code 1 if there is no such event.

    esops trace correlation 0b1c2a4e-8f6d-4c55-9d0e-3a2b1c0d9e8f
    """
    return _run(context, lambda tracer: tracer.correlation(id), options)


@command(trace)
def event(
    context: typer.Context,
    id: EventId,
    options: TraceOptions,
) -> int:
    """Show an event with its causes and its effects.

    Exit code 1 if there is no such event.

    esops trace event 0f21ddb6-6cad-4a26-8d11-6ece1738f7d9
    """
    return _run(context, lambda tracer: tracer.event(id), options)


@command(trace)
def stream(
    context: typer.Context,
    name: StreamName,
    options: TraceOptions,
) -> int:
    """Show the events of a stream with their causes and effects in other streams.

    Exit code 1 if there is no such stream.

    esops trace stream ShoppingCart-2b2210d1 --format timeline
    esops trace stream ShoppingCart-2b2210d1 --format html -o trace.html
    """
    return _run(context, lambda tracer: tracer.stream(name), options, stream=name)


def _say_archived(output: Output, config: Config, names: Sequence[str], stream: str) -> None:
    from esops.errors import NoStream
    from esops.stores.archive.whereabouts import archived_stream

    for name in names:
        error = archived_stream(config, NoStream(name, stream))
        if not isinstance(error, NoStream):
            output.say(f"{error.message}\n{error.hint}")


def _run(
    context: typer.Context,
    ask: Callable[[Tracer], Trace],
    options: TraceOptions,
    stream: str | None = None,
) -> int:
    from esops.cli import trace_text
    from esops.config import load_config
    from esops.errors import UsageError
    from esops.trace.search import open_tracer

    output = current_output(context)
    config = load_config(output.settings.config)
    if options.form == "html" and output.data.is_terminal:
        raise UsageError(
            "--format html writes a page of several megabytes, which a terminal cannot show",
            hint="Write it to a file: -o trace.html",
        )
    around = duration_if_given("--around", options.around)
    as_json = output.format("table", "json") == "json"
    form: Form = options.form or ("json" if as_json else "tree")
    names = _names(config, output, options.stores)
    with open_tracer(
        config,
        names,
        scan=options.scan,
        limit=options.limit,
        tenant=options.tenant,
        say=output.say,
    ) as tracer:
        found = ask(tracer)
        # Made while the stores are open: neighbours are asked of them below.
        lines = list(trace_text.lines(output, found, form))
        if around is not None and found.forest.nodes and form in ("tree", "timeline"):
            lines += trace_text.neighbours(tracer.neighbours(found, around), options.around or "")
    if not found.forest.nodes:
        output.say(f"no event was found for {found.about} in {', '.join(names)}")
        for how in found.how:  # which keys of the metadata: others may be meant
            output.say(f"searched {how}")
        if stream is not None:
            _say_archived(output, config, names, stream)
        return 1
    # Not as markup: a stream's name may have brackets in it.
    for line in lines:
        output.data.print(line, markup=False)
    if output.file is not None:
        output.say(f"written: {output.file.path}")
    trace_text.remarks(output, found)
    if stream is not None:
        trace_text.tenants(output, found, stream)
    return 0


def _names(config: Config, output: Output, stores: Sequence[str] | None) -> list[str]:
    if not stores:
        return [config.store(output.settings.store)[0]]
    if list(stores) == ["all"]:
        return list(config.stores)
    return [config.store(name)[0] for name in stores]
