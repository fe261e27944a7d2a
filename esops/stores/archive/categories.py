"""In which categories archived events are, as the store that they came from finds them.

Most stores go by a stream's name. Of others the lists of streams tell, or a column of the events
(eventsourcing). Archives that an earlier esops wrote have no categories in their lists: of Marten's
the rows of streams tell, and of tables of somebody's own nothing but the name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import structlog

from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.archive_format.schema import StreamRow
from esops.errors import Refused

log = structlog.get_logger("esops.archive")

_NAME = "split_part(stream, '-', 1)"
_SHOWN_NAME = (
    "CASE WHEN regexp_full_match(stream, '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}') "
    f"THEN NULL ELSE {_NAME} END"
)
_TOPIC = "split_part(split_part(x_topic, ':', 2), '.', 1)"
_LISTED = "CAST(CAST(categories AS JSON) AS VARCHAR[])"
_TYPE = "json_extract_string(\"row\", '$.type')"

Runs = Sequence[tuple[Run, Manifest]]


class Categories:
    """The categories of the events and streams of some runs."""

    def __init__(self, runs: Runs, listed: Callable[[Runs], str]) -> None:
        """`listed` gives a statement for the lists of streams of runs."""
        self._listed_in = listed
        self._by_topic = [
            each for each in runs if "topic" in each[1].columns and _of(each, "eventsourcing")
        ]
        rest = [each for each in runs if each not in self._by_topic]
        self._listed = [
            each for each in rest if each[1].categories == "listed" or _of(each, "marten")
        ]
        self._named = [each for each in rest if each not in self._listed]

    def condition(
        self, category: str, ask: Callable[[str, list[Any]], list[tuple[Any, ...]]]
    ) -> tuple[str, list[Any]]:
        """The condition for events of a category, and its values.

        Raises Refused where a stream has events of several categories and nothing tells which.
        """
        self._check_single(category, ask)
        parts, values = ["FALSE"], list[Any]()
        if self._by_topic:
            parts.append(f"({_in(self._by_topic)} AND {_TOPIC} = ?)")
            values.append(category)
        if self._listed:
            streams = (
                f"SELECT tenant, stream FROM ({self._listed_in(self._listed)}) WHERE {_MEMBER}"
            )
            parts.append(f"({_in(self._listed)} AND (tenant, stream) IN ({streams}))")
            values += [category] * 3
        if self._named:
            parts.append(f"({_in(self._named)} AND {_NAME} = ?)")
            values.append(category)
        return f"({' OR '.join(parts)})", values

    def _check_single(
        self, category: str, ask: Callable[[str, list[Any]], list[tuple[Any, ...]]]
    ) -> None:
        if self.unlisted:
            log.warning(
                "some runs were written by an earlier esops, which kept no categories: a read by "
                "category goes by the streams' names there",
                runs=self.unlisted,
            )
        # A stream of Marten's is in all of its categories with all of its events.
        mixed = [each for each in self._listed if not _of(each, "marten")]
        if not mixed:
            return
        found = ask(
            f"SELECT stream FROM ({self._listed_in(mixed)}) WHERE {_MEMBER} AND len({_LISTED}) > 1 "
            "LIMIT 1",
            [category] * 3,
        )
        if found:
            raise Refused(
                f"stream {found[0][0]} of the archive has events of several categories, one of "
                f"them {category}, and the archive does not tell which events are of which",
                hint="Read it by stream, or without a category.",
            )

    @property
    def unlisted(self) -> int:
        """How many runs have only the streams' names to tell, where the store had more."""
        return sum(each[1].categories is None and _of(each, "custom") for each in self._named)

    def of_events(self) -> tuple[str, str]:
        """A category for each event to be shown, as an expression over `stored`, and what has to be
        joined to that.
        """
        if not self._by_topic and not self._listed:
            return _SHOWN_NAME, ""
        cases = [f"WHEN {_in(self._by_topic)} THEN {_TOPIC}"] if self._by_topic else []
        join = ""
        if self._listed:
            cases.append(f"WHEN {_in(self._listed)} THEN first_category")
            join = f" LEFT JOIN ({self.of_streams()}) USING (tenant, stream)"
        return f"CASE {' '.join(cases)} ELSE {_SHOWN_NAME} END", join

    @property
    def kept(self) -> bool:
        """Whether more than the names of streams tells of the categories."""
        return bool(self._by_topic or self._listed)

    def of_streams(self) -> str:
        """A statement for the first category of each stream: tenant, stream, first_category, and
        whether the store itself said so, where it may have said that there is none.
        """
        runs = [*self._by_topic, *self._listed]
        return (
            f"SELECT tenant, stream, max(CASE WHEN {_LISTED} IS NOT NULL THEN {_LISTED}[1] "
            f"ELSE coalesce({_TYPE}, {_SHOWN_NAME}) END) AS first_category, "
            f"bool_or({_LISTED} IS NOT NULL) AS said FROM ({self._listed_in(runs)}) GROUP BY ALL"
        )

    def names(self, stored: str) -> str:
        """A statement for the categories of all events; `stored` is one for the events."""
        found = []
        if self._by_topic:
            found.append(f"SELECT DISTINCT {_TOPIC} FROM ({stored}) WHERE {_in(self._by_topic)}")
        if self._listed:
            listed = self._listed_in(self._listed)
            found.append(f"SELECT unnest(coalesce({_LISTED}, [{_TYPE}, {_NAME}])) FROM ({listed})")
        if self._named:
            found.append(f"SELECT DISTINCT {_NAME} FROM ({stored}) WHERE {_in(self._named)}")
        return f"SELECT DISTINCT * FROM ({' UNION ALL '.join(found)}) LIMIT 1000"


_MEMBER = f"coalesce(list_contains({_LISTED}, ?), coalesce({_TYPE} = ?, FALSE) OR {_NAME} = ?)"


def may_be_in(category: str, manifest: Manifest, stream: Digest, row: StreamRow) -> bool:
    """Whether a stream of a run may have events of a category; yes where nothing tells."""
    if row.categories is not None:
        return category in orjson.loads(row.categories)
    if manifest.categories is None and manifest.layout in ("custom", "eventsourcing"):
        return True
    named = stream.stream.partition("-")[0] == category
    if named or row.row is None or manifest.layout != "marten":
        return named
    return bool(orjson.loads(row.row).get("type") == category)


def _of(run: tuple[Run, Manifest], layout: str) -> bool:
    return run[1].layout == layout


def _in(runs: Runs) -> str:
    names = ", ".join("'{}'".format(run.name.replace("'", "''")) for run, _ in runs)
    return f"run IN ({names})"
