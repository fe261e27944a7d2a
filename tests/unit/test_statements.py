"""The `.sql` files beside modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from esops.postgres.statements import script, statements


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that holds one file, `queries.sql`."""

    def make(text: str) -> str:
        folder = tmp_path / "esops_sql_files"
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "queries.sql").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, folder.name, raising=False)
        return folder.name

    return make


def test_statements_come_by_name_without_the_comments_above_them(package):
    found = statements(
        package(
            "-- A page about all of them.\n\n"
            "-- first --\n-- Why it is there.\n-- In two lines.\nSELECT 1 -- one\n  FROM a;\n\n"
            "-- second --\nSELECT %s\n"
        ),
        "queries",
    )
    assert found == {"first": "SELECT 1 -- one\n  FROM a", "second": "SELECT %s"}


@pytest.mark.parametrize(
    "text", ["SELECT 1;\n-- one --\nSELECT 2", "-- one --\nSELECT 1;\n-- one --\nSELECT 2"]
)
def test_a_statement_without_a_name_of_its_own_is_an_error(package, text):
    with pytest.raises(ValueError, match="queries"):
        statements(package(text), "queries")


def test_a_script_is_the_whole_file(package):
    assert script(package("-- a comment\nSELECT 1;\n"), "queries") == "-- a comment\nSELECT 1;\n"
    with pytest.raises(FileNotFoundError):
        script("esops_sql_files", "no_such_file")


def test_every_file_with_named_statements_can_be_loaded():
    root = Path(__file__).parents[2] / "esops"
    for path in root.rglob("*.sql"):
        package = ".".join(path.parent.relative_to(root.parent).parts)
        if path.parent.joinpath("__init__.py").exists():
            text = path.read_text(encoding="utf-8")
            if any(line.startswith("-- ") and line.endswith(" --") for line in text.splitlines()):
                assert all(statements(package, path.stem).values()), path
