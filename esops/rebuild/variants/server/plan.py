"""What a rebuild inside the store will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esops.config import Config
from esops.errors import Refused, UsageError
from esops.rebuild import guards, shortened
from esops.rebuild.options import Options
from esops.rebuild.variants.server import compare
from esops.rebuild.variants.server.inside import projections_in
from esops.rebuild.variants.server.journal import ServerJournal, ServerVersion
from esops.settings import ProjectionSettings
from esops.stores.base import EventStore

SUFFIX = "{suffix}"
"""Placeholder in the JavaScript, in the names of streams that a version emits to. It becomes empty
for version 1 and `-v2` for version 2.
"""


@dataclass(frozen=True)
class ServerRebuildPlan:
    """The plan of a rebuild inside the store; `move_readers` is the program that does so."""

    projection: str
    store: str
    source: ServerVersion | None
    target: ServerVersion
    query: str
    emit: bool
    method: compare.Method
    move_readers: Sequence[str]
    switch: bool
    notes: Sequence[str] = ()
    """What to know before."""

    def lines(self, *, statements: bool = True) -> list[str]:
        """The plan for a person; with the query word for word, or only the summary."""
        serves = "nothing serves yet" if self.source is None else f"{self.source.name} serves now"
        lines = [
            (
                f"Plan: rebuild {self.projection} blue-green in the server of {self.store}, as "
                f"{self.target.name} ({serves})"
            ),
            (
                f"  create the continuous projection {self.target.name}, which emits "
                f"{'to tracked streams' if self.emit else 'nothing'}"
            ),
            "  wait until it has caught up",
        ]
        if self.source is not None:
            lines.append(f"  compare its results with those of {self.source.name}: {self.method}")
        if self.switch:
            if self.source is not None:
                lines.append(f"  move the readers by running: {' '.join(self.move_readers)}")
                lines.append("  the old one keeps running until `esops projection retire`")
        else:
            lines.append("  --no-switch: it is built and compared, and then stands by")
        if self.notes:
            lines += ["", "Note:", *(f"  - {note}" for note in self.notes)]
        if not statements:
            return lines
        return [*lines, "", "Query:", *(f"  {line}" for line in self.query.splitlines())]

    def as_dict(self) -> dict[str, Any]:
        """The plan for a program."""
        return {
            "projection": self.projection,
            "to": self.target.name,
            "query": self.query,
            "notes": list(self.notes),
        }


def make_plan(config: Config, name: str, store: EventStore, options: Options) -> ServerRebuildPlan:
    """The plan. Changes nothing. Raises UsageError or Refused where it cannot be done."""
    settings = config.projection(name)
    journal = ServerJournal.read(store, name)
    source = journal.active
    number = max(journal.versions, default=0) + 1
    target = ServerVersion(number, journal.name_of(number), "building")
    query = read_query(config, settings, name, number)
    if options.switch and source is not None and not settings.handover:
        raise UsageError(
            f"projections.{name}.handover is missing: esops does not know how to move the readers "
            f"to {target.name}",
            hint="Name a program there, or build and compare only, with --no-switch.",
        )
    # It may be the user's own: a rebuild that is resumed has the name in its journal and does not
    # come here.
    if projections_in(store).get(target.name) is not None:
        raise Refused(
            f"the server has a projection {target.name} already, but esops knows no such version",
            hint="Look at it, and delete it or give the projection another name.",
        )
    method = compare.method_of(options.compare) if source is not None else "none"
    compare.Paths.of(settings.verify)  # raises for what is no path
    if source is not None and projections_in(store).get(source.name) is None:
        raise Refused(
            f"the projection {source.name}, which should serve, does not exist in the server",
            hint="Create it there again, or restore it.",
        )
    notes = guards.check_archive_of_others(
        config, name, store.name, without=options.without_archived
    )
    notes += shortened.check(store, name, settings, options)
    return ServerRebuildPlan(
        name,
        store.name,
        source,
        target,
        query,
        settings.emit,
        method,
        settings.handover,
        options.switch,
        notes,
    )


def read_query(config: Config, settings: ProjectionSettings, name: str, version: int) -> str:
    """The JavaScript of a version.

    Raises UsageError where it cannot be read, Refused where two versions would emit to the same
    stream.
    """
    assert settings.javascript is not None
    path = config.directory / settings.javascript
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{config.path}: projections.{name}.javascript: {path} cannot be read: {error}"
        ) from None
    # The query is not parsed: a mention in a comment only asks for more than is needed.
    emits = "emit(" in text or "linkTo(" in text
    if emits and not settings.emit:
        raise UsageError(
            f"projections.{name}: its query emits events, but emit = true is not set",
            hint="Set emit = true, so that esops knows which streams belong to it.",
        )
    if emits and SUFFIX not in text:
        raise Refused(
            f"{path.name} emits events, and a second version would write them to the same streams "
            "again",
            hint=f"Put {SUFFIX} into the names of the streams that it emits to; it becomes -v2 "
            "for version 2.",
        )
    return text.replace(SUFFIX, "" if version == 1 else f"-v{version}")
