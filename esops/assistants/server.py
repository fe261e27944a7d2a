"""The server of the Model Context Protocol over standard input and output, by the official SDK."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Annotated, Any, Literal, ParamSpec

import psycopg
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from esops import __version__, manual
from esops.assistants.answers import Answers, EventsQuestion
from esops.config import Config
from esops.errors import EsopsError
from esops.postgres import session

P = ParamSpec("P")
_Add = Callable[[Callable[..., str]], None]

_INSTRUCTIONS = """\
esops operates event-sourced systems: event stores, read models (projections) with blue-green \
versions, archives. These tools only read. Begin with `status`; `docs` explains every word, \
finding and command. Answers are JSON; where one is cut, its field `cut` says so. To change \
something, tell the operator which esops command to run: nothing here changes anything.\
"""
_AT_ONCE = 8
"""Calls that are answered at once. Each has sessions in a database that others need, and one of the
SDK's forty threads, which also answer whether the server is alive.
"""
_LONGEST_ERROR = 2_000
"""Characters: an error may quote what was asked for."""
_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)
Store = Annotated[str | None, Field(description="A store of esops.toml; needed if it has several.")]


def serve(config: Config, *, data: bool = True, checks: bool = True) -> None:
    """Answer until the client closes standard input. `checks`: offer projection_check."""
    session.only_read()
    make_server(config, data=data, checks=checks).run("stdio")


def make_server(config: Config, *, data: bool = True, checks: bool = True) -> MCPServer[Any]:
    """The server with its tools and resources."""
    server: MCPServer[Any] = MCPServer(
        "esops", instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    answers = Answers(config, data=data)
    add = _Tools(server).add
    _add_state(add, answers)
    _add_events(add, answers)
    if checks:
        _add_check(add, answers)
    _add_docs(server, add, answers)
    return server


class _Tools:
    """Functions as tools: their errors become sentences, and only some are at work at once."""

    def __init__(self, server: MCPServer[Any]) -> None:
        self._server = server
        self._places = threading.BoundedSemaphore(_AT_ONCE)

    def add(self, function: Callable[..., str]) -> None:
        """Add a function as a tool."""
        call = answering(function, self._places)
        self._server.add_tool(call, annotations=_READS, structured_output=False)


def answering(function: Callable[P, str], places: threading.BoundedSemaphore) -> Callable[P, str]:
    """A function that raises nothing but ToolError, also where all places are taken."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> str:
        if not places.acquire(blocking=False):
            raise ToolError("Other questions are still being answered. Ask again in some seconds.")
        try:
            return function(*args, **kwargs)
        except (EsopsError, psycopg.Error, ValueError, OSError) as error:
            raise ToolError(in_words(error)) from None
        except Exception as error:  # noqa: BLE001 - a client gets a sentence, and no traceback
            raise ToolError(in_words(error)) from None
        finally:
            places.release()

    return call


def in_words(error: Exception) -> str:
    """An error as one or two sentences."""
    if isinstance(error, EsopsError):
        message = f"{error.message.rstrip('.')[:_LONGEST_ERROR]}."
        return f"{message} {error.hint}" if error.hint else message
    if isinstance(error, psycopg.Error):
        lines = str(error).strip().splitlines()
        return f"The database failed: {lines[0] if lines else type(error).__name__}"
    return f"A defect in esops: {type(error).__name__}. Report what was asked for."


def _add_state(add: _Add, answers: Answers) -> None:
    def status(store: Store = None) -> str:
        """Stores with their heads, processors, versions of projections with lag and stalls,
        rebuilds, archive runs and last checks, on one page.
        """
        return answers.status(store)

    def projection(name: str) -> str:
        """A projection's versions: which serves, how far each is, and who keeps it fresh."""
        return answers.projection(name)

    def history(
        projection: str | None = None,
        since: Annotated[str | None, Field(description="Such as 24h or 7d.")] = None,
        last: Annotated[int, Field(ge=1, le=200)] = 50,
    ) -> str:
        """Who did what with esops (rebuilds, switches, erasures, archive runs) and how it ended,
        the newest last.
        """
        return answers.history(projection, since, last)

    def plan(projections: list[str] | None = None) -> str:
        """Which projections differ from the version that serves (code, DDL, filter, settings), and
        what that takes. Loads the projections' code in a process of its own.
        """
        return answers.plan(projections or [])

    for each in (status, projection, history, plan):
        add(each)


def _add_events(add: _Add, answers: Answers) -> None:
    def events(
        store: Store = None,
        stream: str | None = None,
        category: str | None = None,
        types: list[str] | None = None,
        since: Annotated[
            str | None, Field(description="10m, 2h, or a time in UTC as ISO 8601.")
        ] = None,
        until: str | None = None,
        where: Annotated[
            list[str] | None, Field(description="Conditions like 'customer.id = 42'.")
        ] = None,
        tenant: str | None = None,
        last: Annotated[int, Field(ge=1, le=200)] = 20,
    ) -> str:
        """The newest events that fit, in the order of the log."""
        return answers.events(
            EventsQuestion(
                store, stream, category, types or (), since, until, where or (), tenant, last
            )
        )

    def audit_streams(
        store: Store = None,
        category: str | None = None,
        longest: Annotated[int, Field(ge=1, le=200)] = 20,
    ) -> str:
        """How long streams are: a summary, the longest ones, and the budgets that are broken."""
        return answers.audit_streams(store, category, longest)

    def audit_stream(stream: str, store: Store = None) -> str:
        """One stream: its types over time, gaps, size, bursts, and a suggestion."""
        return answers.audit_stream(stream, store)

    def trace(
        by: Literal["event", "correlation", "stream"],
        sought: Annotated[str, Field(description="The id, or the name of the stream.")],
        stores: list[str] | None = None,
    ) -> str:
        """What led to an event and what it caused: its causes and effects, with depths and with
        causes that are missing.
        """
        return answers.trace(by, sought, stores or ())

    for each in (events, audit_streams, audit_stream, trace):
        add(each)


def _add_check(add: _Add, answers: Answers) -> None:
    def projection_check(
        name: str,
        sample: Annotated[
            str, Field(description="A number of keys, or a part of them like 1%.", max_length=20)
        ] = "1000",
        store: Store = None,
    ) -> str:
        """Whether rows of a read model are what their events make of them, for a sample of keys. It
        changes no row; what it found is noted in esops' own tables, as by the command.
        """
        return answers.check(name, sample, store)

    add(projection_check)


def _add_docs(server: MCPServer[Any], add: _Add, answers: Answers) -> None:
    def docs(
        topic: Annotated[
            str | None, Field(description="Without one, the list of topics comes.")
        ] = None,
        section: Annotated[
            str | None, Field(description="Such as ESOPS-D003 of the topic doctor.")
        ] = None,
    ) -> str:
        """The documentation of esops: a topic, or one section of it."""
        return answers.docs(topic, section)

    add(docs)

    @server.resource("esops://projections", mime_type="application/json")
    def projections() -> str:
        """Stores, projections and archives of esops.toml, without addresses."""
        return answers.projections()

    for topic in manual.topics().values():
        page = functools.partial(_page, answers, topic.name)
        server.resource(
            f"esops://docs/{topic.name}",
            name=topic.name,
            title=topic.title,
            description=f"{topic.kind}: {topic.title}",
            mime_type="text/markdown",
        )(page)


def _page(answers: Answers, topic: str) -> str:
    try:
        return answers.docs(topic)
    except EsopsError as error:
        raise ResourceError(in_words(error)) from None
