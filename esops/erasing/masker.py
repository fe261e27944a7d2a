"""What the rules make of an event's row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from esops.erasing.content import is_json, like, plain_string, strings, text_of, texts_in
from esops.erasing.forms import composed
from esops.erasing.nearly import Left, NearEvents, Trees
from esops.erasing.rules import HASHED, ErasureRule, Person, is_for
from esops.erasing.scalars import may_be_number, says, scalars
from esops.erasing.spans import (
    JsonNode,
    NotJson,
    found,
    may_be_too_deep,
    scan,
    twins,
    without,
)
from esops.json_paths import JsonPath, Steps, within
from esops.settings import Mask
from esops.stores.masking import Document, StoredRow, Value


@dataclass
class Masked:
    """What the rules make of a row."""

    columns: dict[str, Value] = field(default_factory=dict)
    """The new contents of the columns that change."""
    values: dict[str, set[str]] = field(default_factory=dict)
    """What was masked, and the paths that it was at; never written anywhere."""
    unreadable: tuple[str, ...] = ()
    """Columns that are no JSON."""
    own: bool = False
    """Whether the event is the person's."""
    matched: bool = False
    """Whether it fulfils a condition itself."""

    twins: list[tuple[str, Steps, JsonPath]] = field(default_factory=list)
    """Where a mask leads nowhere, and a key is written in another way: the column, the place there,
    and the mask's path.
    """

    nearly: list[Left] = field(default_factory=list)
    """Where it nearly has what was asked for, and what is left of it."""

    def add(self, value: str, path: JsonPath) -> None:
        """Note a value."""
        self.values.setdefault(value, set()).add(str(path))


_NOT_THEIRS = Masked()


class Masker:
    """Applies rules to rows that have documents in certain columns."""

    def __init__(self, person: Person, documents: Sequence[Document], *, wrapped: bool) -> None:
        """`wrapped`: whether values may be wrapped by the library."""
        self.person, self.documents, self._wrapped = person, documents, wrapped
        asked = [path for path, _ in person.conditions]
        masked = [path for rule in person.rules for path, _ in rule.masks]
        self._places = {
            path: [(each, steps) for each in documents for steps in _in(path, each)]
            for path in [*asked, *masked]
        }
        """For each path, the columns that it leads into, and what is left of it there."""
        self._near = NearEvents(person, documents, wrapped=wrapped)
        self.met: set[JsonPath] = set()
        """The masks' paths that led to something in an event of the person."""
        self._unchecked = any(not each.plain and not each.checked for each in documents)

    @property
    def columns(self) -> list[str]:
        """The columns that the rules may change."""
        wanted = [path for rule in self.person.rules for path, _ in rule.masks]
        return sorted({each.column for path in wanted for each, _ in self._places[path]})

    def note_stream(self, row: StoredRow) -> None:
        """Note the stream of a row that fulfils a condition."""
        for rule, matched in self._rules(self._fulfilled(row, Trees(row))):
            if matched and rule.settings.whole_streams:
                self.person.whole.add((rule.name, row.key))

    def masked(self, row: StoredRow) -> Masked:
        """What the rules make of a row; nothing of one that is not the person's."""
        person, trees = self.person, Trees(row)
        fulfilled = self._fulfilled(row, trees)
        near = self._near.of(row, fulfilled, trees)
        named = person.has_stream(row.key.stream)
        if named:
            person.seen.add(composed(row.key.stream))
        deep = self._too_deep(row)
        if not (fulfilled or near or deep or self._unchecked or named or person.whole):
            return _NOT_THEIRS
        result = Masked()
        if any(rule.wants(row) for rule in person.rules):
            result.unreadable = deep
        columns, applied = dict(row.columns), set[str]()
        for rule, matched in self._rules(fulfilled):
            if matched and rule.settings.whole_streams:
                # Also of a stream that was begun while others were masked.
                person.whole.add((rule.name, row.key))
            own = matched or named or (rule.name, row.key) in person.whole
            result.own |= own
            if own:
                applied.add(rule.name)
            result.matched |= matched
            if rule.wants(row):
                unread = self._unread(row, rule, own=own) if self._unchecked else ()
                result.unreadable += tuple(set(unread) - set(result.unreadable))
                if own:
                    self._apply(rule, columns, result)
        if result.own:
            result.columns = {
                name: value for name, value in columns.items() if value != row.columns[name]
            }
        for each in near:
            left = self._near.left(row, each, applied, columns)
            if left is not None:
                result.nearly.append(left)
        return result

    def _too_deep(self, row: StoredRow) -> tuple[str, ...]:
        """The columns whose JSON has more levels than can be read."""
        found = []
        for document in self.documents:
            text = None if document.plain else text_of(row.columns.get(document.column))
            if text and may_be_too_deep(text):
                try:
                    scan(text)
                except NotJson:
                    found.append(document.column)
        return tuple(found)

    def _fulfilled(self, row: StoredRow, trees: Trees) -> list[JsonPath]:
        found = []
        for path, value in self.person.conditions:
            if self._fulfils(row, path, value, trees):
                found.append(path)
                self.person.met.add((path, value))
        return found

    def _rules(self, fulfilled: Sequence[JsonPath]) -> Iterator[tuple[ErasureRule, bool]]:
        """Each rule, and whether a condition that it is for is fulfilled."""
        for rule in self.person.rules:
            yield rule, any(is_for(rule, path) for path in fulfilled)

    def _fulfils(self, row: StoredRow, path: JsonPath, value: str, trees: Trees) -> bool:
        for document, steps in self._places[path]:
            text = text_of(row.columns.get(document.column))
            if not text:
                continue
            if not value.isascii():
                value, text = composed(value), composed(text)
            if document.plain:
                if not steps and text == value:
                    return True
                continue
            # An escape may hide the value; else a look at the text spares reading it.
            if not (value in text or "\\" in text or may_be_number(value, text)):
                continue
            tree = trees.of(document.column)
            nodes = () if tree is None else found(tree, steps, wrapped=self._wrapped)
            if any(says(each, value) for node in nodes for each in scalars(node, self._wrapped)):
                return True
        return False

    def _unread(self, row: StoredRow, rule: ErasureRule, *, own: bool) -> Iterator[str]:
        """The columns that a rule has to look into, or that a condition could be in, and cannot."""
        paths = [path for path, _ in rule.masks] if own else []
        paths += [path for path, _ in self.person.conditions if is_for(rule, path)]
        for document in self.documents:
            if document.plain or document.checked:
                continue
            content = row.columns.get(document.column)
            leads = any(each is document for path in paths for each, _ in self._places[path])
            if content and leads and not is_json(content):
                yield document.column

    def _apply(self, rule: ErasureRule, columns: dict[str, Value], result: Masked) -> None:
        for path, mask in rule.masks:
            for document, steps in self._places[path]:
                content = columns.get(document.column)
                if content is None:
                    continue
                if document.plain or not steps:
                    self.met.add(path)
                    new = content if steps else self._whole(rule, mask, document, content)
                    if new != content:
                        for value in strings(content, plain=document.plain):
                            result.add(value, path)
                else:
                    new, values = self._within(rule, (path, mask), document, content, steps, result)
                    for value in values:
                        result.add(value, path)
                columns[document.column] = new

    def _whole(self, rule: ErasureRule, mask: Mask, document: Document, content: Value) -> Value:
        """A column that is masked as a whole: one that holds a part of the metadata."""
        text = text_of(content)
        new = rule.replacement(mask, text or "")
        if text is None or new is None:
            return None
        known = text if document.plain else plain_string(text)
        if known == new or (mask.kind == "hash" and HASHED.fullmatch(known or "")):
            return content
        return like(content, new if document.plain else json.dumps(new, ensure_ascii=False))

    def _within(
        self,
        rule: ErasureRule,
        of: tuple[JsonPath, Mask],
        document: Document,
        content: Value,
        steps: Steps,
        result: Masked,
    ) -> tuple[Value, list[str]]:
        """A value, or several, in a column: the new content, and what was masked."""
        path, mask = of
        text, values = text_of(content), list[str]()
        try:
            tree = scan(text) if text else None
        except NotJson:
            tree = None
        nodes = [] if tree is None else list(found(tree, steps, wrapped=self._wrapped))
        if nodes:
            self.met.add(path)
        elif tree is not None:
            result.twins += self._twins(rule, document, tree, path, steps)
        edits, reached = [], -1
        for node in sorted(nodes, key=lambda each: each.start):
            if text is None or rule.done(mask, node) or node.start < reached:
                continue
            reached = node.end
            values += texts_in(node)
            source = node.text if node.text is not None else text[node.start : node.end]
            made = rule.replacement(mask, source)
            edits.append((node, "null" if made is None else json.dumps(made, ensure_ascii=False)))
        if text is None or not edits:
            return content, values
        for node, new in reversed(edits):
            text = text[: node.start] + new + text[node.end :]
        if mask.kind == "null" and document.drops_nulls:
            text = without(text, steps)
        return like(content, text), values

    def _twins(
        self, rule: ErasureRule, document: Document, tree: JsonNode, path: JsonPath, steps: Steps
    ) -> Iterator[tuple[str, Steps, JsonPath]]:
        known = {
            node.start
            for other, _ in rule.masks
            for each, left in self._places[other]
            if each is document
            for node in found(tree, left, wrapped=self._wrapped)
        }
        for at, node in twins(tree, steps, wrapped=self._wrapped):
            if node.start not in known:
                yield document.column, at, path


def _in(path: JsonPath, document: Document) -> list[Steps]:
    return within(path.steps, document.at) if path.root == document.root else []
