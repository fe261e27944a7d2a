"""One pass over all rows of a store or an archived run: what is the person's, what is masked, and
where a value is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from esops.erasing.content import text_of
from esops.erasing.masker import Masked, Masker
from esops.erasing.traces import MOST_KEPT, Place, Values
from esops.events import StreamKey
from esops.stores.masking import MaskedRow, StoredRow

Write = Callable[[Sequence[MaskedRow]], Sequence[StoredRow]]
"""Replaces contents; gives the rows that it could not, since they have changed."""


@dataclass
class Findings:
    """What a pass has found."""

    events: int = 0
    """With something to be masked."""
    streams: set[StreamKey] = field(default_factory=set)
    """Of all events of the person."""
    matched: bool = False
    """Whether an event to be masked fulfils a condition itself."""
    left: int = 0
    """Places where something is left."""
    values: int = 0
    """Those of these where a value is that only this erasure knows."""
    places: list[Place] = field(default_factory=list)
    """The first of them."""
    kept: dict[str, set[str]] = field(default_factory=dict)
    """The values in events that nearly have what was asked for, each with its paths."""
    beside: int = 0
    """Events that nearly have what was asked for, and nothing that the rules mask."""

    def leave_value(self, place: Place) -> None:
        """Note a place that has a value."""
        self.values += 1
        self.leave(place)

    def leave(self, place: Place, times: int = 1) -> None:
        """Note a place."""
        self.left += times
        if len(self.places) < MOST_KEPT:
            self.places.append(place)

    def add(self, other: Findings) -> None:
        """Take over what another pass has found."""
        self.events += other.events
        self.streams |= other.streams
        self.matched |= other.matched
        self.left += other.left
        self.values += other.values
        self.places = [*self.places, *other.places][:MOST_KEPT]
        self.keep(other.kept)
        self.beside += other.beside

    def keep(self, values: Mapping[str, set[str]]) -> None:
        """Note values in events that are left."""
        for value, paths in values.items():
            self.kept.setdefault(value, set()).update(paths)


class Sweep:
    """Reads the rows of one place, again and again."""

    def __init__(self, where: str, masker: Masker, values: Values) -> None:
        """`where` names the place; `values` gets what is masked."""
        self._where, self._masker, self._values = where, masker, values

    def note_streams(self, batches: Iterable[Sequence[StoredRow]]) -> None:
        """Find the streams of which one event fulfils a condition."""
        for batch in batches:
            for row in batch:
                self._masker.note_stream(row)

    def run(
        self,
        batches: Iterable[Sequence[StoredRow]],
        write: Write | None = None,
        *,
        search: bool = True,
        but_matched: bool = False,
    ) -> Findings:
        """A pass that masks with `write`, and otherwise only looks. `search`: also look for values
        in what is not masked. `but_matched`: leave the events that fulfil a condition for later,
        since others are found by them.
        """
        findings = Findings()
        for batch in batches:
            changes = []
            for row in batch:
                masked = self._masker.masked(row)
                if masked.own:
                    findings.streams.add(row.key)
                if masked.columns and not (but_matched and masked.matched):
                    self._values.add(masked.values)
                    findings.events += 1
                    findings.matched |= masked.matched
                    changes.append(MaskedRow(row, masked.columns))
                for left in masked.nearly:
                    findings.keep(left.values)
                    findings.beside += not left.counts
                if search and (
                    masked.own or masked.unreadable or masked.nearly or self._may_have(row)
                ):
                    self._look(findings, row, masked)
            if changes and write is not None:
                for row in write(changes):
                    findings.leave(self._place(row, "the row", "it changed since it was read"))
        return findings

    def _may_have(self, row: StoredRow) -> bool:
        """A quick look, which nearly all rows end with."""
        if not self._values:
            return False
        texts = [
            each if isinstance(each, str) else each.decode("utf-8", "replace")
            for each in row.columns.values()
            if each
        ]
        return self._values.may_be_in("\n".join([*texts, row.key.stream]))

    def _look(self, findings: Findings, row: StoredRow, masked: Masked) -> None:
        for column in masked.unreadable:
            why = "its content is no JSON, or too deep, so esops cannot look into it"
            findings.leave(self._place(row, column, why))
        for column, steps, mask in masked.twins:
            why = f"{mask} leads nowhere in this event, and this may be what it means"
            findings.leave(self._place(row, f"{column} {self._values.path(steps)}", why))
        for near in (each.near for each in masked.nearly if each.counts):
            at = near.column if not near.at else f"{near.column} {self._values.path(near.at)}"
            findings.leave(self._place(row, at, near.in_words()))
        if not self._values:
            return
        documents = {each.column: each for each in self._masker.documents}
        for name, before in row.columns.items():
            content = masked.columns.get(name, before)
            if not content:
                continue
            text = text_of(content)
            if text is None and isinstance(content, bytes):
                text = content.decode("utf-8", "replace")
            document = documents.get(name)
            found: Iterator[tuple[str, str]]
            if document is None or document.plain:
                found = self._values.in_text(text or "", name)
            else:
                found = self._values.in_document(text or "", own=masked.own)
            for path, of in found:
                at = path if path == name else f"{name} {path}"
                findings.leave_value(self._place(row, at, f"the value of {of}"))

    def _place(self, row: StoredRow, path: str, of: str) -> Place:
        # A stream's name may itself have a value in it.
        hides = next(self._values.in_text(row.key.stream, ""), None) is not None
        stream = "a stream that is named so" if hides else f"stream {row.key.stream}"
        what = f"{row.type}, version {row.version} of {stream} at {row.position}"
        return Place(self._where, what, path, of)
