"""The list of runs is what their documents say, whatever became of the summary of them."""

from __future__ import annotations

import pytest

from esops.archive.run import run
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog, Run
from esops.archive_format.summaries import SUMMARY, refresh, summaries
from esops.config import load_config
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.integration.test_archive import new, of, write
from tests.support import emmett


@pytest.fixture
def catalog(project, dsn, connection) -> Catalog:
    """Three runs of a policy."""
    emmett.create(connection)
    write(project, of(dsn, more=""), 'store = "s"\ncategory = "cart"\nremove = "keep"')
    config = load_config(project.folder / "esops.toml")
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in range(3):
            store.append(f"cart-{number}", [new()])
            run(config, "old")
    return Catalog(Repository(config.archives["cold"]))


def read(catalog, monkeypatch) -> tuple[list, list[str]]:
    """The list, and the objects that it took."""
    asked: list[str] = []
    get = Repository.get

    def counted(self, name):
        asked.append(name)
        return get(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(Repository, "get", counted)
        return list(summaries(catalog)), asked


def test_one_object_tells_and_is_never_believed_where_it_is_old(catalog, project, monkeypatch):
    known, asked = read(catalog, monkeypatch)
    assert asked == [SUMMARY]
    assert [each["state"] for each in known] == ["done"] * 3
    repository, names = catalog.repository, catalog.names()
    newest = repository.get(SUMMARY)
    # Lost, cut by a full disk, or overwritten by a run that began before the last one ended.
    for change in (
        lambda: repository.delete(SUMMARY),
        lambda: repository.put(SUMMARY, newest[:-20]),
        lambda: repository.put(SUMMARY, b"[]"),
    ):
        change()
        assert read(catalog, monkeypatch)[0] == known
    with monkeypatch.context() as patched:
        patched.setattr(Repository, "entries", lambda self, prefix: of_two(self, prefix, names[2]))
        refresh(catalog)
    again, asked = read(catalog, monkeypatch)
    assert again == known
    assert {name.split("/")[1] for name in asked if name != SUMMARY} == {names[2]}
    # A document that changed counts at once, and a damaged one is seen each time.
    refresh(catalog)
    Run(repository, names[0]).note("failed.json", {"problems": ["given up"]})
    assert [each["state"] for each in summaries(catalog)] == ["failed", "done", "done"]
    manifest = project.folder / "cold" / "runs" / names[1] / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    refresh(catalog)
    for _ in range(2):
        assert [each["state"] for each in summaries(catalog)] == ["failed", "damaged", "done"]
    last = project.run("status", "--output", "json").json["archives"]
    assert {each["state"] for each in last} == {"damaged", "done"}


ENTRIES = Repository.entries


def of_two(repository, prefix, newest):
    """The listing of a process that looked before the newest run."""
    return (each for each in ENTRIES(repository, prefix) if newest not in each.name)
