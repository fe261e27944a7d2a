"""Whose data is erased, and the rules that say what is masked."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from esops.erasing.forms import composed
from esops.erasing.spans import (
    JsonNode,
)
from esops.events import StreamKey
from esops.json_paths import JsonPath, parse_path
from esops.settings import EraseSettings, Mask
from esops.stores.masking import StoredRow

HASHED = re.compile(r"erased:[0-9a-f]{32}")
"""What stands in the place of a value that was hashed."""


class ErasureRule:
    """A section [erase.NAME], ready to be applied."""

    def __init__(self, name: str, settings: EraseSettings) -> None:
        """Read its paths."""
        self.name, self.settings = name, settings
        self.masks = settings.masks
        self.where = None if settings.where is None else parse_path(settings.where)
        self.shared = set(settings.shared)
        self._secret = (
            settings.secret.get_secret_value().encode() if settings.secret is not None else b""
        )

    def wants(self, row: StoredRow) -> bool:
        """Whether events of this type hold what it masks."""
        return not self.settings.types or row.type in self.settings.types

    def replacement(self, mask: Mask, text: str) -> str | None:
        """What takes a value's place, as a text; None: nothing does."""
        if mask.kind == "hash":
            return (
                "erased:" + hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()[:32]
            )
        return mask.text if mask.kind == "text" else None

    def done(self, mask: Mask, node: JsonNode) -> bool:
        """Whether a value is masked already, or there is none."""
        if node.null or mask.kind == "null":
            return node.null
        if mask.kind == "hash":
            return node.string and HASHED.fullmatch(node.text or "") is not None
        return node.string and node.text == mask.text


@dataclass(frozen=True)
class Person:
    """What was asked for: conditions on values in events, and streams."""

    conditions: Sequence[tuple[JsonPath, str]]
    streams: frozenset[str]
    rules: Sequence[ErasureRule]
    whole: set[tuple[str, StreamKey]] = field(default_factory=set)
    """By a rule's name: the streams of which one event fulfils a condition."""
    tenant: str | None = None
    """The only tenant whose events are asked for: others may have a person of the same number."""

    seen: set[str] = field(default_factory=set)
    """The streams that were named, and are there."""
    met: set[tuple[JsonPath, str]] = field(default_factory=set)
    """The conditions that an event fulfils."""

    def has_stream(self, name: str) -> bool:
        """Whether a stream was named, in whatever form of Unicode."""
        return bool(self.streams) and composed(name) in self.streams_asked

    @cached_property
    def streams_asked(self) -> frozenset[str]:
        """The names of streams, with composed letters."""
        return frozenset(map(composed, self.streams))

    def may_have(self, key: StreamKey) -> bool:
        """Whether events of a stream are among those that were asked for."""
        return self.tenant is None or key.tenant in ("", self.tenant)

    @property
    def looks_for_streams(self) -> bool:
        """Whether streams have to be found before their events are known."""
        return bool(self.conditions) and any(each.settings.whole_streams for each in self.rules)


def is_for(rule: ErasureRule, path: JsonPath) -> bool:
    """Whether a rule goes with conditions on a path."""
    return rule.where is None or rule.where == path


def rules_of(settings: Mapping[str, EraseSettings]) -> list[ErasureRule]:
    """All rules of a configuration."""
    return [ErasureRule(name, each) for name, each in settings.items()]
