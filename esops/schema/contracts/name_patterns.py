"""Patterns of names as esops.toml writes them: `*` for anything, `?` for one character."""

from __future__ import annotations

import re
from collections.abc import Iterable


class NamePatterns:
    """Some patterns. Everything but `*` and `?` stands for itself, such as `[` in a type's name."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """`patterns` may be plain names."""
        self.patterns = tuple(patterns)
        self.exact = tuple(each for each in self.patterns if not {"*", "?"} & set(each))
        """Those that are plain names."""
        parts = (
            "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern)
            for pattern in self.patterns
        )
        self._matches = re.compile("|".join(parts) or r"(?!)", re.DOTALL).fullmatch

    def match(self, name: str) -> bool:
        """Whether a name is meant."""
        return self._matches(name) is not None

    def match_any(self, names: Iterable[str]) -> bool:
        """Whether one of some names is meant."""
        return any(map(self.match, names))
