"""Which events close a stream, as far as the configuration says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esops.config import Config
from esops.schema.versions import versioned


@dataclass(frozen=True)
class ClosingRule:
    """The types of events after which nothing more comes in a stream."""

    everywhere: frozenset[str] = frozenset()
    by_category: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    """Where they are named, for a person."""
    not_used: tuple[str, ...] = ()
    """Policies whose pattern of stream names is none of a category."""
    given: tuple[str, ...] = ()
    """Those of `everywhere` that were named for this very read."""

    @property
    def any(self) -> bool:
        """Whether some type closes some stream."""
        return bool(self.everywhere or self.by_category)

    def types(self, category: str | None) -> frozenset[str]:
        """Those for the streams of a category."""
        return self.everywhere | self.by_category.get(category or "", frozenset())

    def closes(self, stored: str, category: str | None) -> bool:
        """Whether an event closes its stream: its stored type is named, or the one without its
        version.
        """
        named = self.types(category)
        return stored in named or versioned(stored).base in named

    def as_dict(self) -> dict[str, Any]:
        """Everything under the documented field names."""
        return {
            "archived": True,
            "types": sorted(self.everywhere),
            "by_category": {name: sorted(types) for name, types in self.by_category.items()},
            "sources": list(self.sources),
        }


def closing_rule(config: Config, stores: Collection[str], given: Sequence[str]) -> ClosingRule:
    """What closes streams of a store. `stores`: its names; `given`: the types of --closed-by."""
    everywhere = {*given, *config.audit.closed_by}
    sources = ["--closed-by"] if given else []
    if config.audit.closed_by:
        sources.append("[audit]")
    by_category: dict[str, frozenset[str]] = {}
    not_used = []
    for archive in config.archives.values():
        for name, policy in archive.policies.items():
            if not policy.closed_by or not _for(policy.store, config, stores):
                continue
            category = policy.category
            if category is None:
                category = _category_in(policy.stream or "")
            if category is None:
                not_used.append(name)
                continue
            sources.append(f"policy {name}")
            if category == "*":
                everywhere.update(policy.closed_by)
            else:
                before = by_category.get(category, frozenset())
                by_category[category] = before | frozenset(policy.closed_by)
    return ClosingRule(
        frozenset(everywhere), by_category, tuple(sources), tuple(not_used), tuple(given)
    )


def _for(store: str | None, config: Config, stores: Collection[str]) -> bool:
    return store in stores or (store is None and len(config.stores) == 1)


def _category_in(pattern: str) -> str | None:
    """The category whose streams a pattern names; `*`: all; None: others."""
    if pattern == "*":
        return "*"
    before = pattern.removesuffix("-*")
    return None if before == pattern or set(before) & set("*?[") else before
