"""Which values of a projection's code are others in each process, though the code is the same: the
time of a start, a random number, a text that is joined from a set.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import structlog

from esops.errors import EsopsError
from esops.projections.another_process import ask
from esops.projections.code_nodes import Hashes, differing
from esops.projections.definition import (
    Definition,
    FoldDefinition,
    Handlers,
    load_definition,
)
from esops.projections.python_code import hashes_of
from esops.settings.projections import ProjectionSettings

log = structlog.get_logger("esops.projections")
_SEEDS = ("1", "2", "3", "4")
"""By which the processes hash: a set of two texts has the same order in half of all processes."""
_known: dict[int, tuple[Definition, list[str]]] = {}


def unsteady(definition: Definition, settings: ProjectionSettings, directory: Path) -> list[str]:
    """The names whose values differ in another process with the same code; none where all agree,
    or where another process cannot tell.
    """
    if not isinstance(definition, FoldDefinition | Handlers):
        return []
    if id(definition) not in _known:
        here = hashes_of(definition, settings.python, directory)
        names = _compared(here, settings, directory)
        _known[id(definition)] = (definition, names)
        if names:
            log.info(
                "some values of the code are others in each process, so that no value counts as "
                "code, only how it is made",
                names=", ".join(names[:5]),
            )
    return _known[id(definition)][1]


def _compared(here: Hashes, settings: ProjectionSettings, directory: Path) -> list[str]:
    for seed in _SEEDS:
        there = _asked(settings, directory, seed)
        if there is None or there["text"] != here.text.hex():
            return []
        if there["values"] != here.values.hex():
            return differing(here.by_name, there["names"]) or [settings.python]
    return []


def _asked(settings: ProjectionSettings, directory: Path, seed: str) -> dict[str, Any] | None:
    task = {"kind": settings.kind, "python": settings.python, "directory": str(directory)}
    return ask(__name__, task, {"PYTHONHASHSEED": seed})


def main() -> None:
    """Say the hashes of the projection that standard input names."""
    # What a projection prints must not mix with the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    task = json.loads(sys.stdin.read())
    settings = ProjectionSettings(kind=task["kind"], python=task["python"], tables=("any",))
    directory = Path(task["directory"])
    try:
        definition = load_definition(settings, directory, "python")
    except EsopsError:
        sys.exit(1)
    assert isinstance(definition, FoldDefinition | Handlers)
    found = hashes_of(definition, settings.python, directory)
    said = {"text": found.text.hex(), "values": found.values.hex(), "names": found.by_name}
    print(json.dumps(said), file=answer, flush=True)


if __name__ == "__main__":
    main()
