"""Whether the fingerprint of a program sees the program, or only what runs it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from esops.projections.definition import ProcessDefinition
from esops.rebuild.made_of import names_its_program


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["node", "projector.js"], True),
        (["./projector.js"], True),
        ([sys.executable, "projector.js"], True),
        ([sys.executable, "-m", "projector"], False),
        (["/bin/sh", "-c", "projector"], False),
        (["python", "-m", "projector"], False),
        ([".venv/bin/python", "-m", "projector"], False),
        (["node_modules/.bin/tsx", "projector"], False),
        (["../other/outside.php"], True),
    ],
)
def test_a_file_of_the_project_is_named(tmp_path, command, named):
    project = tmp_path / "project"
    outside = tmp_path / "other" / "outside.php"
    outside.parent.mkdir()
    outside.write_text("")
    for name in ("projector.js", ".venv/bin/python", "node_modules/.bin/tsx"):
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o755)
    definition = object.__new__(ProcessDefinition)
    object.__setattr__(definition, "directory", project)
    object.__setattr__(definition, "command", command)
    target = SimpleNamespace(definition=definition, settings=SimpleNamespace(fingerprint=()))
    assert names_its_program(target) is named
