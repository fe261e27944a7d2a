"""The figures of a check as Prometheus' text, for node_exporter's textfile collector."""

from __future__ import annotations

import time

from esops.schema.checking.history import SchemaCheckResult


def text(found: SchemaCheckResult) -> str:
    """All figures of one check; the counts are of events."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"esops_schema_{name}", help_, ["store", *labels], registry=registry)

    broken = gauge(
        "violations", "Events that break a rule of their type's schema", "type", "path", "rule"
    )
    for each in found.violations:
        broken.labels(found.store, each.type, each.path, each.rule).set(each.events)
    without = gauge("events_without_schema", "Events of a type that has no schema", "type")
    for other in found.schemaless:
        without.labels(found.store, other.type).set(other.events)
    gauge("checked_events", "Events that the last check is about").labels(found.store).set(
        found.total
    )
    complete = found.short is None and not found.stopped
    gauge("check_complete", "Whether the last check has read all events (1) or not").labels(
        found.store
    ).set(complete)
    gauge("check_time_seconds", "When the last check ended, in seconds since 1970").labels(
        found.store
    ).set(time.time())
    return generate_latest(registry).decode()
