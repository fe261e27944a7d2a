"""The hashes of a projection in Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

from esops.projections.code_graph import CodeGraph
from esops.projections.code_nodes import Hashes
from esops.projections.definition import Definition, FoldDefinition, Handlers
from esops.projections.second_fingerprint import SecondGraph

_known: dict[int, tuple[Definition, Hashes]] = {}


def hashes_of(definition: FoldDefinition | Handlers, reference: str, directory: Path) -> Hashes:
    """The hashes of a definition as it was when it was first asked for: while it works, the code
    may fill caches of its own, which are no change of the code.
    """
    if id(definition) not in _known:
        graph = filled_graph(CodeGraph, definition, reference, directory)
        _known[id(definition)] = (definition, graph.hashes())
    return _known[id(definition)][1]


G = TypeVar("G", CodeGraph, SecondGraph)


def filled_graph(
    kind: type[G], definition: FoldDefinition | Handlers, reference: str, directory: Path
) -> G:
    """A graph with a definition in it; `reference` is its `module:name`."""
    module, _, name = reference.partition(":")
    graph = kind(module, directory)
    if name and getattr(sys.modules.get(module), name, None) is definition:
        graph.add_name(module, name)
    match definition:
        case FoldDefinition():
            graph.add([definition.evolve, definition.key])
        case Handlers():
            graph.add(definition.functions)
    return graph
