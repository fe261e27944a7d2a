"""What the last `esops schema check --since-last` of a store has found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esops.errors import EsopsError, Unavailable
from esops.health.denied import grant_for
from esops.health.findings import Finding
from esops.schema.progress.past import kept_before
from esops.settings import StoreSettings
from esops.stores.base import EventStore
from esops.wording import count


def of_store(store: EventStore, settings: StoreSettings) -> dict[str, Any] | None:
    """The findings of the last check of each selection of events of an open store, together; None
    where there was none. Raises Unavailable where they cannot be read.
    """
    unread = f"what the last schema check of store {store.name} found cannot be read"
    try:
        kept = kept_before(store, settings, "check")
        if not kept:
            return None
        groups: dict[tuple[str, str, str], int] = {}
        schemaless: dict[str, int] = {}
        # The newest first: what it says of a group counts.
        for each in kept:
            for group in each.document["violations"]:
                groups.setdefault((group["type"], group["path"], group["rule"]), group["events"])
            for type_ in each.document["schemaless"]:
                schemaless.setdefault(type_["type"], type_["events"])
        events = max(sum(each.document["events"].values()) for each in kept)
    except EsopsError as error:
        # From its cause, which says what right is missing.
        raise Unavailable(f"{unread}: {error.message}", hint=error.hint) from error.__cause__
    except (KeyError, TypeError, ValueError) as error:
        again = "Begin again with `esops schema check --since-last --from-start`."
        raise Unavailable(f"{unread}: it is no record of esops", hint=again) from error
    return {
        "store": store.name,
        "at": kept[0].at,
        "position": kept[0].position,
        "events": events,
        "violations": [
            {"type": type_, "path": path, "rule": rule, "events": number}
            for (type_, path, rule), number in sorted(groups.items())
        ],
        "types_without_schema": [
            {"type": type_, "events": number} for type_, number in sorted(schemaless.items())
        ],
    }


def examine(subject: str, store: EventStore, settings: StoreSettings) -> Iterator[Finding]:
    """Events that break a rule, or why nobody can say."""
    try:
        found = of_store(store, settings)
    except EsopsError as error:
        fix = grant_for(error, settings.postgres or "", "esops") or error.hint
        yield Finding("ESOPS-D001", subject, error.message, fix)
        return
    if found is None or not found["violations"]:
        return
    groups: Sequence[Mapping[str, Any]] = found["violations"]
    most = max(groups, key=lambda each: int(each["events"]))
    yield Finding(
        "ESOPS-D084",
        subject,
        f"events break {count(len(groups), 'rule')} of the schemas that the last schema check, at "
        f"{found['at']:%Y-%m-%d %H:%M} UTC, held them against; most often {most['rule']} at "
        f"{most['path']} of {most['type']} ({count(int(most['events']), 'event')})",
        "See which events: esops schema check --since-last --against DIR",
    )


def samples(checks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str], float]]:
    """Name, values of the labels, and value of each metric."""
    for each in checks:
        store = each["store"]
        for group in each["violations"]:
            labels = [store, group["type"], group["path"], group["rule"]]
            yield "esops_schema_violations", labels, float(group["events"])
        for other in each["types_without_schema"]:
            labels = [store, other["type"]]
            yield "esops_schema_events_without_schema", labels, float(other["events"])
        yield "esops_schema_checked_events", [store], float(each["events"])
        yield "esops_schema_check_time_seconds", [store], each["at"].timestamp()
