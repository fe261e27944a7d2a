"""Events that nearly have what was asked for: under a key that is written in another way, or as a
value that is. They may be the person's. Nothing of them is masked, so they are named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from esops.erasing.content import text_of, texts_in
from esops.erasing.forms import alike, canonical, seeking, sought
from esops.erasing.rules import HASHED, ErasureRule, Person, is_for
from esops.erasing.scalars import may_be_number, says, scalars
from esops.erasing.spans import JsonNode, NotJson, scan, twins
from esops.json_paths import JsonPath, Steps, within
from esops.stores.masking import Document, StoredRow, Value


class Trees:
    """The columns of a row as JSON, each read once."""

    def __init__(self, row: StoredRow) -> None:
        """Nothing is read yet."""
        self._row = row
        self._read: dict[str, JsonNode | None] = {}

    def of(self, column: str) -> JsonNode | None:
        """A column's JSON; None where it has none."""
        if column not in self._read:
            text = text_of(self._row.columns.get(column))
            try:
                self._read[column] = scan(text) if text else None
            except NotJson:
                self._read[column] = None
        return self._read[column]


class Nearly(NamedTuple):
    """Where an event nearly has what was asked for."""

    path: JsonPath
    """What was asked for."""
    column: str
    at: Steps
    """Where the event has it, within the column."""
    same_key: bool
    """Whether only the value is written in another way."""

    def in_words(self) -> str:
        """Why it counts, and what to do."""
        if self.same_key:
            return (
                f"the value of {self.path} is written in another way here, and nothing of this "
                "event is masked. Ask for this form of it, too"
            )
        return (
            f"what was asked for at {self.path} is under another key here, and nothing of this "
            "event is masked. Add a rule whose `where` is this key, and ask for that, too"
        )


class NearCondition:
    """A condition, and the forms of its keys and its value."""

    def __init__(
        self, path: JsonPath, value: str, documents: Sequence[Document], *, wrapped: bool
    ) -> None:
        """`wrapped`: whether values may be wrapped by the library."""
        self.path, self._value, self._wrapped = path, value, wrapped
        self._form, self._sought = canonical(value), sought(value)
        self.places = _leading_into(path, documents)

    def of(self, row: StoredRow, trees: Trees) -> Nearly | None:
        """Where a row has it that does not fulfil it."""
        for document, steps in self.places:
            content = text_of(row.columns.get(document.column))
            if not content or not self._may_be_in(content):
                continue
            if document.plain or not steps:
                if not steps and canonical(content) == self._form:
                    return Nearly(self.path, document.column, (), same_key=True)
                continue
            tree = trees.of(document.column)
            for at, node in () if tree is None else twins(tree, steps, wrapped=self._wrapped):
                if any(self._says(each) for each in scalars(node, self._wrapped)):
                    return Nearly(self.path, document.column, at, same_key=at == steps)
        return None

    def _may_be_in(self, text: str) -> bool:
        return (
            self._sought in seeking(text)
            or "\\" in text  # which may hide it
            or may_be_number(self._value, text)
        )

    def _says(self, node: JsonNode) -> bool:
        return says(node, self._value) or (node.text and canonical(node.text)) == self._form


class Left(NamedTuple):
    """What is left of an event that nearly has what was asked for."""

    near: Nearly
    values: Mapping[str, set[str]]
    """What the rules mask of others, and the paths that it is at; never written anywhere."""
    counts: bool
    """Whether anything is left: else the rules mask nothing of such an event."""


class NearEvents:
    """Finds the events that nearly have what was asked for, and what is left of them."""

    def __init__(self, person: Person, documents: Sequence[Document], *, wrapped: bool) -> None:
        """`wrapped`: whether values may be wrapped by the library."""
        self._rules, self._wrapped = person.rules, wrapped
        self._conditions = [
            NearCondition(path, value, documents, wrapped=wrapped)
            for path, value in person.conditions
            if value.strip()
        ]
        masks = [each for rule in person.rules for each in rule.masks]
        self._places = {path: _leading_into(path, documents) for path, _ in masks}
        self._texts = {mask.text for _, mask in masks if mask.kind == "text"}

    def of(self, row: StoredRow, fulfilled: Collection[JsonPath], trees: Trees) -> list[Nearly]:
        """Where a row nearly has what was asked for, beside the conditions that it fulfils."""
        found = []
        for condition in self._conditions:
            path = condition.path
            if path not in fulfilled and any(self._rules_for(path, row)):
                found.append(condition.of(row, trees))
        return [each for each in found if each is not None]

    def left(
        self, row: StoredRow, near: Nearly, applied: Collection[str], columns: Mapping[str, Value]
    ) -> Left | None:
        """What is left of it. `applied`: the rules that its data was masked by, by name; `columns`
        are as these have made them.
        """
        rules = [each for each in self._rules_for(near.path, row) if each.name not in applied]
        if not rules:
            return None
        values: dict[str, set[str]] = {}
        for rule in rules:
            for value, path in self._unmasked(rule, columns):
                values.setdefault(value, set()).add(str(path))
        whole = any(each.settings.whole_streams for each in rules)
        return Left(near, values, counts=bool(values) or whole)

    def _rules_for(self, path: JsonPath, row: StoredRow) -> Iterator[ErasureRule]:
        return (each for each in self._rules if is_for(each, path) and each.wants(row))

    def _unmasked(
        self, rule: ErasureRule, columns: Mapping[str, Value]
    ) -> Iterator[tuple[str, JsonPath]]:
        """What a rule masks, however the keys are written, and what is not masked yet."""
        for path, _ in rule.masks:
            for document, steps in self._places[path]:
                for node in self._nodes(document, steps, text_of(columns.get(document.column))):
                    for value in () if self._is_masked(node) else texts_in(node):
                        yield value, path

    def _nodes(self, document: Document, steps: Steps, text: str | None) -> Sequence[JsonNode]:
        if not text:
            return ()
        if document.plain:
            return () if steps else [JsonNode(0, len(text), text, string=True)]
        try:
            tree = scan(text)
        except NotJson:
            return ()
        return [each for _, each in twins(tree, steps, wrapped=self._wrapped)]

    def _is_masked(self, node: JsonNode) -> bool:
        """Whether any rule has masked a value."""
        if node.null or not node.string or node.text is None:
            return node.null
        return node.text in self._texts or HASHED.fullmatch(node.text) is not None


def _leading_into(
    path: JsonPath, documents: Sequence[Document]
) -> Sequence[tuple[Document, Steps]]:
    """The documents that a path leads into, however its keys are written, with what is left of it
    there.
    """
    return [
        (document, steps)
        for document in documents
        if path.root == document.root
        for steps in within(path.steps, document.at, alike)
    ]
