"""What `esops status` shows, as Prometheus metrics. Each scrape reads everything again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from esops.config import Config
from esops.health import schema_checks
from esops.health.status import Status, look

NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "esops_store_up": (
        "1 where the store could be reached and reports no problem",
        ("store", "backend", "layout"),
    ),
    "esops_store_held_back": (
        "Sessions and missing numbers that hold the settled head back",
        ("store",),
    ),
    "esops_store_late_events": (
        "Events that came after their numbers had been passed as dead, and that a version misses",
        ("store",),
    ),
    "esops_processor_lag_events": (
        "Events that a processor of the application is behind",
        ("store", "processor"),
    ),
    "esops_processor_lag_seconds": (
        "Age of the oldest event that a processor has not read",
        ("store", "processor"),
    ),
    "esops_version_lag_events": (
        "Events that a version of a read model is behind",
        ("projection", "version", "state"),
    ),
    "esops_version_lag_seconds": (
        "Age of the oldest event that a version has not read",
        ("projection", "version", "state"),
    ),
    "esops_version_rows": ("Rows of a version", ("projection", "version", "state")),
    "esops_version_dead_letters": (
        "Events that a version could not project and skipped",
        ("projection", "version", "state"),
    ),
    "esops_version_followed": (
        "1 if a process keeps the version fresh",
        ("projection", "version", "state"),
    ),
    "esops_version_of_log": (
        "1 where the store's log is the one that a version was made from, 0 where it is not",
        ("projection", "version", "state"),
    ),
    "esops_version_mixed": (
        "1 where rows may be of old logic or of two, until esops projection finish",
        ("projection", "version", "state"),
    ),
    "esops_stalled": (
        "Seconds for which a processor or version has not advanced while events wait, or 0",
        ("store", "processor", "projection", "version"),
    ),
    "esops_rebuild": ("1 for the state that the newest rebuild is in", ("projection", "state")),
    "esops_archive_run": (
        "1 for the state that the last run of a policy is in",
        ("archive", "policy", "state"),
    ),
    "esops_archive_run_time_seconds": (
        "When the last run of a policy ended, in seconds since 1970",
        ("archive", "policy"),
    ),
    "esops_check_rows_differing": (
        "Rows of the version that serves that a check found wrong, and nobody found right since",
        ("projection",),
    ),
    "esops_check_unchecked": (
        "Keys that the last finished check could not check",
        ("projection",),
    ),
    "esops_check_keys": ("Keys that the last finished check looked at", ("projection",)),
    "esops_check_time_seconds": (
        "When the last finished check ended, in seconds since 1970",
        ("projection",),
    ),
    "esops_schema_violations": (
        "Events that break a rule of their type's schema",
        ("store", "type", "path", "rule"),
    ),
    "esops_schema_events_without_schema": (
        "Events of a type that has no schema",
        ("store", "type"),
    ),
    "esops_schema_checked_events": ("Events that the last schema check is about", ("store",)),
    "esops_schema_check_time_seconds": (
        "When the last schema check ended, in seconds since 1970",
        ("store",),
    ),
    "esops_check_seconds": ("How long the last finished check took", ("projection",)),
    "esops_rebuild_seconds": ("Working time of the newest rebuild", ("projection",)),
}


_APART = ("version", "partition")
"""What else tells processors of one name apart."""


class StatusCollector(Collector):
    """Gets the status of everything that a configuration names, at each scrape."""

    def __init__(self, config: Config, store: str | None = None) -> None:
        """Remember what to look at: everything, or what belongs to one store."""
        self._config, self._store = config, store

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not connect to every store."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of this moment."""
        families = {
            name: GaugeMetricFamily(name, text, labels=labels)
            for name, (text, labels) in NAMES.items()
        }
        for name, labels, value in samples(look(self._config, self._store)):
            families[name].add_metric(labels, value)
        return families.values()


def _names(processors: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each processor that no other one has: a label stands for one series, and libraries
    keep a row for each version and partition.
    """
    known = Counter((each["store"], each["name"]) for each in processors)
    return [
        each["name"]
        if known[each["store"], each["name"]] == 1
        else "/".join([each["name"], *filter(None, map(each.get("detail", {}).get, _APART))])
        for each in processors
    ]


def samples(status: Status) -> Iterator[tuple[str, list[str], float]]:
    """Yield name, values of the labels, and value of each metric; skip what is not known."""
    for store in status.stores:
        yield (
            "esops_store_up",
            [store["store"], store["backend"], store["layout"] or ""],
            float(store["ok"]),
        )
        if "late_events" in store:
            yield "esops_store_late_events", [store["store"]], float(len(store["late_events"]))
        if store["ok"]:
            yield (
                "esops_store_held_back",
                [store["store"]],
                float(len(store.get("held_back_by", ()))),
            )
    for each, name in zip(status.processors, _names(status.processors), strict=True):
        labels = [each["store"], name]
        yield from _known("esops_processor_lag_events", labels, each["lag_events"])
        yield from _known("esops_processor_lag_seconds", labels, each["lag_seconds"])
        if each["kind"] == "processor":
            yield "esops_stalled", [*labels, "", ""], _seconds(each)
    for each in status.projections:
        if each.get("version") is not None:
            yield from _of_version(each)
    for each in status.rebuilds:
        yield "esops_rebuild", [each["projection"], _rebuild_state(each)], 1.0
        yield "esops_rebuild_seconds", [each["projection"]], float(each["seconds"])
    yield from _of_checks(status.checks)
    yield from schema_checks.samples(status.schema_checks)
    for each in status.archives:
        policy = str(each.get("policy"))
        yield "esops_archive_run", [each["archive"], policy, each["state"]], 1.0
        if each.get("finished_at"):
            ended = datetime.fromisoformat(each["finished_at"]).timestamp()
            yield "esops_archive_run_time_seconds", [each["archive"], policy], ended


def _rebuild_state(each: Mapping[str, Any]) -> str:
    """Its state; `stopped` where no process works on it, and nobody has paused it."""
    state, unfinished = str(each["state"]), each.get("unfinished")
    return "stopped" if unfinished and not unfinished["works"] and state != "paused" else state


def _of_checks(checks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str], float]]:
    for each in checks:
        labels = [each["projection"]]
        yield "esops_check_rows_differing", labels, float(each["wrong"])
        yield "esops_check_unchecked", labels, float(each["unchecked"])
        yield "esops_check_keys", labels, float(each["keys"])
        yield "esops_check_time_seconds", labels, each["finished_at"].timestamp()
        yield from _known("esops_check_seconds", labels, each["seconds"])


def _of_version(each: Mapping[str, Any]) -> Iterator[tuple[str, list[str], float]]:
    labels = [each["projection"], str(each["version"]), each["state"]]
    yield from _known("esops_version_lag_events", labels, each["lag_events"])
    yield from _known("esops_version_lag_seconds", labels, each.get("lag_seconds"))
    yield from _known("esops_version_rows", labels, each["rows"])
    yield from _known("esops_version_dead_letters", labels, each.get("dead_letters"))
    if "same_log" in each:
        yield "esops_version_of_log", labels, float(each["same_log"])
    if "stalled" in each:
        yield "esops_stalled", [each["store"], "", *labels[:2]], _seconds(each)
    if each["state"] == "active" and "mixed_since" in each:
        yield "esops_version_mixed", labels, float(each["mixed_since"] is not None)
    # Nobody knows here whether the application keeps its own version fresh.
    if each.get("kept_by") != "application":
        yield "esops_version_followed", labels, float(each["followed_by"] is not None)


def _seconds(each: Mapping[str, Any]) -> float:
    return float(each["stalled"]["seconds"]) if each["stalled"] else 0.0


def _known(name: str, labels: list[str], value: Any) -> Iterator[tuple[str, list[str], float]]:
    if value is not None:
        yield name, labels, float(value)


def registry(config: Config, store: str | None = None) -> CollectorRegistry:
    """Make a registry that looks at the stores when it is scraped."""
    collectors = CollectorRegistry(auto_describe=False)
    collectors.register(StatusCollector(config, store))
    return collectors


def text(config: Config, store: str | None = None) -> str:
    """Return the metrics in Prometheus' text format."""
    return exposition.generate_latest(registry(config, store)).decode()
