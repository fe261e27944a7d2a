"""The answers to what an assistant may ask. Each opens what it needs and closes it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from esops import manual
from esops.actions.history import history
from esops.assistants import subprocesses
from esops.assistants.bounds import fitted, fitted_text, without_data
from esops.audit.stream import audit_stream
from esops.audit.streams import StreamsRequest, audit_streams
from esops.config import Config
from esops.errors import NoStream, UsageError
from esops.events import EventFilter
from esops.health.status import look
from esops.postgres.connection import translated
from esops.postgres.session import statements_within
from esops.rebuild.overview import describe
from esops.settings import named_duration
from esops.stores import open_store
from esops.stores.archive.whereabouts import archived_stream
from esops.stores.base import EventStore
from esops.trace.conditions import parse_condition
from esops.trace.log import LogReader, LogRequest, event_as_dict
from esops.trace.render import as_dict
from esops.trace.search import open_tracer
from esops.trace.times import point_in_time

MOST_EVENTS = 200
_STATEMENT_LIMIT = 60.0
_TRACED = 500


@dataclass(frozen=True)
class EventsQuestion:
    """Which events are asked for."""

    store: str | None = None
    stream: str | None = None
    category: str | None = None
    types: Sequence[str] = ()
    since: str | None = None
    until: str | None = None
    where: Sequence[str] = ()
    tenant: str | None = None
    last: int = 20


class Answers:
    """The answers, as JSON or Markdown of a bounded length."""

    def __init__(self, config: Config, *, data: bool = True) -> None:
        """Without `data`, no answer has values of events or rows."""
        self._config, self._data = config, data

    # -- the state

    def status(self, store: str | None = None) -> str:
        """What `esops status` shows."""
        with self._reading():
            return self._fitted(look(self._config, store).as_dict(), "Name a store.")

    def projection(self, name: str) -> str:
        """What `esops projection show` shows."""
        with self._reading():
            return self._fitted(describe(self._config, name), "Use status.")

    def history(self, projection: str | None, since: str | None, last: int) -> str:
        """What `esops history` shows."""
        span = None if since is None else named_duration("since", since)
        with self._reading():
            found = history(self._config, projection, since=span, last=min(last, MOST_EVENTS))
        return self._fitted(found.as_dict(), "Ask for fewer with last.")

    def plan(self, projections: Sequence[str]) -> str:
        """What `esops plan` shows."""
        found = subprocesses.run(self._config.named, ["plan"], _known(self._config, projections))
        return self._fitted(found, "Name a projection.")

    def check(self, name: str, sample: str, store: str | None) -> str:
        """What `esops projection check` finds in a sample."""
        self._config.projection(name)
        of_store = ["--store", self._config.store(store)[0]] if store is not None else []
        command = ["projection", "check", f"--sample={sample}", *of_store]
        found = subprocesses.run(self._config.named, command, [name])
        return self._fitted(found, "Take a smaller sample.")

    # -- events

    def events(self, question: EventsQuestion) -> str:
        """What `esops events` shows: the newest that fit, in the order of the log."""
        if question.where and not self._data:
            raise UsageError(
                "this server gives no values of events (--no-data), so it cannot be asked which "
                "events have one",
                hint="Leave out where.",
            )
        with self._reading(), self._opened(question.store) as store:

            def now() -> datetime:
                return store.ping().clock

            since, until = (
                None if text is None else point_in_time(name, text, now)
                for name, text in (("since", question.since), ("until", question.until))
            )
            filter = EventFilter(
                tuple(question.types),
                question.category,
                question.stream,
                tenant=question.tenant,
                since=since,
                before=until,
            )
            conditions = tuple(map(parse_condition, question.where))
            last = max(1, min(question.last, MOST_EVENTS))
            reader = LogReader(store, LogRequest(filter, last=last, where=conditions))
            found = [event_as_dict(each) for each in reader]
            answer: dict[str, Any] = {"store": store.name, "events": found}
            if reader.incomplete is not None:
                answer["incomplete"] = reader.incomplete.message
            if not found:
                nothing = reader.nothing_found()
                answer["note"] = nothing if isinstance(nothing, str) else _sentence(nothing)
        return self._fitted(answer, "Ask for fewer with last, or for one stream.")

    def audit_streams(self, store: str | None, category: str | None, longest: int) -> str:
        """What `esops audit streams` shows."""
        request = StreamsRequest(category=category, longest=max(1, min(longest, MOST_EVENTS)))
        with self._reading(), self._opened(store) as opened:
            found = audit_streams(opened, self._config.audit, request, lambda _: None)
        return self._fitted(found.as_dict(), "Ask for one category, or for fewer with longest.")

    def audit_stream(self, stream: str, store: str | None) -> str:
        """What `esops audit stream` shows."""
        with self._reading(), self._opened(store) as opened:
            found = audit_stream(opened, stream, self._config.audit.closed_by)
        return self._fitted(found.as_dict(), "There is no shorter form.")

    def trace(self, by: str, sought: str, stores: Sequence[str]) -> str:
        """What `esops trace` shows."""
        names = [self._config.store(each)[0] for each in stores or (None,)]
        with self._reading(), open_tracer(self._config, names, limit=_TRACED) as tracer:
            ask = {
                "event": tracer.event,
                "correlation": tracer.correlation,
                "stream": tracer.stream,
            }
            if by not in ask:
                raise UsageError(f"by cannot be {by!r}", hint=f"One of: {', '.join(ask)}.")
            try:
                found = as_dict(ask[by](sought))
            except NoStream as error:
                raise archived_stream(self._config, error) from None
        if not found["events"]:
            found["note"] = f"no event was found for {by} {sought!r} in {', '.join(names)}"
        return self._fitted(found, "Trace one event instead of a stream.")

    # -- what does not change

    def docs(self, topic: str | None, section: str | None = None) -> str:
        """A page of the documentation or a section of it; without a topic, the list of them."""
        if topic is None:
            return fitted({"topics": [each.as_dict() for each in manual.topics().values()]}, "")
        page = manual.topic(topic)
        sections = "; ".join(page.sections())
        return fitted_text(page.readable(section), f"Ask for one section: {sections}")

    def projections(self) -> str:
        """The projections and stores of esops.toml, without addresses and commands."""
        config = self._config
        stores = [
            {"store": name, "backend": each.backend, "layout": each.expected_layout}
            for name, each in config.stores.items()
        ]
        projections = [
            {
                "projection": name,
                "store": each.store or config.store(each.store)[0],
                "kind": each.kind,
                "live": each.live,
                "switch": each.switch,
                "tables": list(each.tables),
                "events": list(each.events),
                "python": each.python,
            }
            for name, each in config.projections.items()
        ]
        archives = [
            {"archive": name, "policies": list(each.policies)}
            for name, each in config.archives.items()
        ]
        answer = {"stores": stores, "projections": projections, "archives": archives}
        return fitted(answer, "Use the tool projection.")

    # --

    def _fitted(self, answer: Mapping[str, Any], hint: str) -> str:
        return fitted(answer if self._data else without_data(answer), hint)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with translated(), statements_within(_STATEMENT_LIMIT):
            yield

    @contextmanager
    def _opened(self, store: str | None) -> Iterator[EventStore]:
        name, settings = self._config.store(store)
        try:
            with open_store(name, settings) as opened:
                yield opened
        except NoStream as error:
            raise archived_stream(self._config, error) from None


Answer = Callable[[], str]


def _known(config: Config, names: Sequence[str]) -> list[str]:
    for each in names:
        config.projection(each)
    return list(names)


def _sentence(error: Exception) -> str:
    hint = getattr(error, "hint", None)
    message = getattr(error, "message", str(error))
    return f"{message}. {hint}" if hint else str(message)
