"""The schemas that the events of a store have, to be compared with those of a directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import orjson

from esops.errors import Stopped, UsageError
from esops.schema.files import SchemaSet, parse_schemas
from esops.schema.inferring.run import InferredSchema, SchemaInference
from esops.schema.reading import EventSelection, Progress, SchemaReader
from esops.stores.base import EventStore, Unsettled


@dataclass
class ObservedSchemas:
    """What was found in a store."""

    schemas: SchemaSet
    events: int
    unnamed: int
    """Events without a type, which no schema can be for."""
    short: Unsettled | None
    """Why the newest events are not in it."""


def observe(
    store: EventStore,
    types: tuple[str, ...] = (),
    progress: Progress = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> ObservedSchemas:
    """Infer the schemas of all events, or of those of some types. Raises Stopped, Unavailable, and
    UsageError where there is no such event.

    As a reader, such a schema takes any number and text; what is written has the ranges that the
    events have.
    """
    inference = SchemaInference()
    reader = SchemaReader(store, EventSelection(None, types), progress, stop=stop)
    for events in reader.batches():
        inference.take(events)
    if reader.stopped:
        raise Stopped("nothing was compared: not all events were read")
    where = f"store:{store.name}"
    loose = list(inference.schemas())
    if not any(each.type for each in loose):
        raise UsageError(f"store {store.name} has no event to compare", hint="Is it the right one?")
    written = _set(where, inference.schemas(strict=True))
    unnamed = sum(each.events for each in loose if not each.type)
    found = replace(_set(where, loose), written=written)
    return ObservedSchemas(found, reader.events, unnamed, reader.short)


def _set(where: str, inferred: Iterable[InferredSchema]) -> SchemaSet:
    return parse_schemas(
        where,
        {
            f"{number}.json": orjson.dumps(each.document)
            for number, each in enumerate(inferred)
            if each.type
        },
    )
