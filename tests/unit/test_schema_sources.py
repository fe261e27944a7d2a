"""What OLD and NEW of `esops schema diff` and `compat` name: directories and git revisions."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from esops.errors import UsageError
from esops.schema.compatibility import CompareRequest, compare
from esops.schema.sources import read_source, read_sources

V1 = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
V2 = {**V1, "properties": {**V1["properties"], "note": {"type": "string"}}}
V3 = {**V2, "required": ["id", "note"]}


def git(folder, *arguments):
    who = {
        f"GIT_{kind}_{what}": "a@example.com"
        for kind in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, env=environment
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Three revisions of a schema, and a fourth that is not committed; `app` is the project."""
    top = tmp_path_factory.mktemp("repository")
    git(top, "init", "-b", "main")
    schemas = top / "app" / "schemas"
    schemas.mkdir(parents=True)
    (schemas / ".hidden.json").write_text("no")
    for tag, schema in (("v1", V1), ("v2", V2), ("v3", V3)):
        (schemas / "OrderPlaced.json").write_text(json.dumps(schema))
        git(top, "add", ".")
        git(top, "commit", "-m", tag)
        git(top, "tag", tag)
        (top / "other.txt").write_text(tag)
        git(top, "add", ".")
        git(top, "commit", "-m", "nothing about schemas")
    (schemas / "OrderPlaced.json").write_text(json.dumps({**V3, "required": []}))
    return top / "app"


def no_store(name):
    raise AssertionError(name)


def required(source):
    return source.types["OrderPlaced"].files[0].schema["required"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schemas", []),
        ("git:v1:app/schemas", ["id"]),
        ("v3:app/schemas/", ["id", "note"]),
        ("git:HEAD:./schemas", ["id", "note"]),
        ("git:main~4:../app/schemas", ["id"]),
        ("git:v3", ["id", "note"]),  # as the other side names it
    ],
)
def test_the_forms(repository, text, expected):
    assert required(read_source(text, "schemas", repository, no_store)) == expected


def test_a_range_is_each_revision_that_changed_the_directory(repository):
    found = read_sources("git:v1..main:app/schemas", "schemas", repository, no_store)
    assert [required(each) for each in found] == [["id"], ["id"], ["id", "note"]]
    assert found[0].where == "v1:app/schemas"


def test_transitive_says_which_old_version_breaks(repository):
    found = compare(
        CompareRequest(["git:v1..v3:app/schemas"], "git:v3:app/schemas"), no_store, repository
    )
    assert [each.compatible(["backward"]) for each in found.sets] == [False, False, True]
    assert not found.compatible
    also = compare(CompareRequest(["git:v3", "git:v2"], "schemas", "full"), no_store, repository)
    assert [each.compatible(["backward"]) for each in also.sets] == [True, True]
    assert not also.compatible


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "OLD or NEW is empty"),
        ("main", "the schema directory main does not exist"),
        ("git:v9:app/schemas", "this repository has no revision v9"),
        ("git:--output=x:app", "this repository has no revision --output=x"),
        ("git:v1:schemas", "revision v1 has no folder schemas"),
        ("git:v1:app/schemas/OrderPlaced.json", "app/schemas/OrderPlaced.json is no folder in revision v1"),
        ("git:v1:../../x", "../../x is outside of the repository"),
        ("git:v3..v1:app/schemas", "v3 is no ancestor of v1"),
        ("git:v1...v3:app/schemas", "git:v1...v3:app/schemas: a range has two dots"),
        ("git:v1..:app/schemas", "git:v1..:app/schemas names no revision"),
        (":app/schemas", ":app/schemas names no revision"),
        ("git:v1..v3", "git:v1..v3 names several revisions"),
    ],
)  # fmt: skip
def test_what_names_nothing_is_said(repository, text, said):
    with pytest.raises(UsageError) as caught:
        read_source(text, "schemas", repository, no_store)
    assert caught.value.message == said


def test_a_directory_that_is_named_like_a_revision_is_refused(repository, tmp_path):
    git(tmp_path, "init", "-b", "main")
    (tmp_path / "v1:schemas").mkdir()
    (tmp_path / "v1:schemas" / "A.json").write_text("{}")
    with pytest.raises(UsageError, match="is a directory, and may be a revision too"):
        read_source("v1:schemas", "x", tmp_path, no_store)
    assert list(read_source("./v1:schemas", "x", tmp_path, no_store).types) == ["A"]


def test_without_a_repository(tmp_path):
    (tmp_path / "schemas").mkdir()
    with pytest.raises(UsageError, match="is in no git repository"):
        read_source("git:main:schemas", "schemas", tmp_path, no_store)


def test_a_mistake_in_a_revision_is_named_with_it(tmp_path):
    git(tmp_path, "init", "-b", "main")
    (tmp_path / "A.json").write_text('{\n"type": 3}')
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "a")
    with pytest.raises(UsageError, match=r"^main:\./A\.json:2: type: "):
        read_source("git:main:.", "x", tmp_path, no_store)
    (tmp_path / "A.json").unlink()
    (tmp_path / "A.json").symlink_to("B.json")
    git(tmp_path, "commit", "-am", "b")
    with pytest.raises(UsageError, match="symbolic link"):
        read_source("git:main:.", "x", tmp_path, no_store)


def test_one_type_alone(repository):
    with pytest.raises(
        UsageError, match="there is no schema for event type 'OrderPlace'"
    ) as caught:
        compare(CompareRequest(["git:v1"], "schemas", types=("OrderPlace",)), no_store, repository)
    assert caught.value.hint == "Did you mean 'OrderPlaced'?"
