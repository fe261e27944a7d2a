"""The modules of the package, for the tests that read its code: parsed once, which takes seconds.

Such a test is in the group "sources" (`pytest.mark.xdist_group`), so that one process has them all.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "esops").rglob("*.py"))


@functools.cache
def trees() -> Mapping[Path, ast.Module]:
    """Each module by its path."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


@functools.cache
def nodes() -> Mapping[Path, list[ast.AST]]:
    """All that is in each module, itself first, in the order of `ast.walk`."""
    return {path: list(ast.walk(tree)) for path, tree in trees().items()}
