"""What the commands of `esops trace` write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from esops.wording import count

if TYPE_CHECKING:
    from rich.text import Text

    from esops.term import Output
    from esops.trace.graph import Node
    from esops.trace.search import Trace

_IDS_SHOWN = 5


def lines(output: Output, found: Trace, form: str) -> Iterable[object]:
    """A trace in one of the formats, line by line: text, or rich's text with colours."""
    from esops.term import to_json
    from esops.trace import render

    match form:
        case "json":
            indented = output.data.is_terminal or output.file is not None
            return [to_json(render.as_dict(found), indent=indented)]
        case "otlp":
            from esops.trace.otlp import otlp

            return [to_json(otlp(found))]
        case "html":
            # Plotly takes long to import.
            from esops.trace.page import trace_page

            return [trace_page(found)]
        case "mermaid":
            return render.mermaid(found.forest)
        case "dot":
            return render.dot(found.forest)
        case "timeline":
            return _timeline(found)
        case _:
            return _tree(found)


def _tree(found: Trace) -> Iterator[Text]:
    from rich.text import Text

    from esops.escaping import visible
    from esops.trace import render

    forest = found.forest
    colours = render.categories(forest)
    several = _several_stores(found)
    for each in render.tree(forest):
        if each.at is None:
            above = "" if each.outside is None else visible(each.outside.in_words)
            yield Text.assemble((each.before, "dim"), (above, "italic"))
            continue
        event = forest.nodes[each.at]
        line = Text.assemble(
            (each.before, "dim"),
            (visible(event.type), colours[event.category]),
            f"  {_where(event, several=several)}  ",
            (each.since or render.clock(event.recorded_at), "dim"),
        )
        # A root with such a cause is no true root.
        if wrong := render.remark(forest, each.at):
            line.append(f"  {wrong}", "red")
        yield line


def _timeline(found: Trace) -> Iterator[Text]:
    from rich.text import Text

    from esops.escaping import visible
    from esops.trace import render

    colours = render.categories(found.forest)
    several = _several_stores(found)
    for since, each, depth in render.timeline(found.forest):
        if each is None:
            yield Text(f"{since:>14}  later", "bold yellow")
            continue
        yield Text.assemble(
            (f"{since:>14}  ", "dim"),
            render.levels_cut(depth) + "  " * min(depth, render.LEVELS),
            (visible(each.type), colours[each.category]),
            f"  {_where(each, several=several)}",
        )


def _several_stores(found: Trace) -> bool:
    return len({each.store for each in found.forest.nodes}) > 1


def _where(each: Node, *, several: bool) -> str:
    from esops.escaping import visible

    store = f"{each.store}/" if several else ""
    return f"{store}{visible(each.named_stream)} @{each.version}"


def neighbours(events: Iterable[Node], around: str) -> list[object]:
    """Other events that were recorded at about the same time, in the order of their times."""
    from esops.escaping import visible

    # As text, since an event may have no time, and None cannot be compared.
    others = sorted(events, key=lambda each: (str(each.recorded_at), each.store, each.order))
    return [
        "",
        f"Other events within {around} before and after: {len(others):,}",
        *(
            f"  {each.recorded_at:%H:%M:%S.%f}  {visible(each.type)}  {_where(each, several=False)}"
            for each in others
        ),
    ]


def tenants(output: Output, found: Trace, stream: str) -> None:
    """Say so where a stream that was asked for is one of several, of different tenants."""
    from esops.escaping import visible

    nodes = found.forest.nodes
    known = sorted({each.tenant for each in nodes if each.stream == stream})
    if len(known) > 1:
        names = ", ".join(map(visible, known[:_IDS_SHOWN])) + ", …" * (len(known) > _IDS_SHOWN)
        output.say(
            f"{len(known)} tenants have a stream {visible(stream)}: {names}; --tenant shows one"
        )


def remarks(output: Output, found: Trace) -> None:
    """What is unusual about a trace, a line each, on stderr."""
    forest = found.forest
    if found.limited:
        size = count(found.limit, "event")
        output.say(f"the trace is not complete: it stopped at {size} (--limit)")
    if found.neighbours_limited:
        size = count(found.limit, "event")
        output.say(
            f"more events were recorded at that time: their list stopped at {size} (--limit)"
        )
    for each in found.not_searched:
        output.say(f"not searched: {each}")
    if forest.missing:
        more = ", …" if len(forest.missing) > _IDS_SHOWN else ""
        output.say(f"missing causes: {', '.join(forest.missing[:_IDS_SHOWN])}{more}")
    if forest.not_loaded:
        more = ", …" if len(forest.not_loaded) > _IDS_SHOWN else ""
        output.say(f"causes not loaded: {', '.join(forest.not_loaded[:_IDS_SHOWN])}{more}")
    for circle in forest.circles[:_IDS_SHOWN]:
        ids = ", ".join(forest.nodes[at].id for at in circle)
        output.say(f"these events cause each other: {ids}")
    if forest.duplicates:
        output.say(f"several events share these ids: {', '.join(forest.duplicates[:_IDS_SHOWN])}")
    if found.remedies:
        # The statements are many, on a partitioned table; one line is enough on each run.
        output.say("no index helped this search; `esops doctor` says how to make one")
