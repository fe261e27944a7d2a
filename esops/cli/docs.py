"""`esops docs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import app, command, current_output

if TYPE_CHECKING:
    from esops.term import Output

_WIDEST = 100
"""Characters: longer lines are hard to read."""


def _complete_topic(incomplete: str) -> list[str]:
    from esops.manual import topics

    return [name for name in topics() if name.startswith(incomplete)]


@command(app)
def docs(
    context: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(help="The page. Default: list all pages.", autocompletion=_complete_topic),
    ] = None,
    section: Annotated[
        str | None,
        typer.Argument(help="One section of the page, by its heading. Default: the whole page."),
    ] = None,
) -> None:
    """List the topics of the documentation, or show one.

    esops docs
    esops docs rebuild-without-downtime
    esops docs doctor ESOPS-D003

    A terminal gets the page in a pager (PAGER, else less); a pipe gets Markdown.
    """
    from esops import manual

    output = current_output(context)
    if topic is None:
        rows = [each.as_dict() for each in manual.topics().values()]
        output.records(rows, ["topic", "kind", "title"], drop=["kind"], wrap=["title"])
        output.say("Show one with: esops docs TOPIC")
        return
    found = manual.topic(topic)
    text = found.readable(section)
    if output.format("table", "json") == "json":
        output.json({**found.as_dict(), "section": section, "text": text})
    elif output.data.is_terminal:
        _show(output, text)
    else:
        output.line(text.rstrip("\n"))


def _show(output: Output, text: str) -> None:
    """Render Markdown for a person, in a pager where it is longer than the screen."""
    import os
    import sys

    from rich.markdown import Markdown

    page = Markdown(text, hyperlinks=False)
    width = min(output.data.width, _WIDEST)
    # Rendered first, to know how long it is at this width.
    with output.data.capture() as rendered:
        output.data.print(page, width=width, soft_wrap=False)
    if sys.stdin.isatty() and rendered.get().count("\n") >= output.data.height:
        # less: keep colours, leave the page on the screen, end at once where it fits
        os.environ.setdefault("LESS", "FRX")
        with output.data.pager(styles=True):
            output.data.print(page, width=width, soft_wrap=False)
    else:
        output.out.write(rendered.get())
