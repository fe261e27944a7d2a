"""`esops docs`: what it shows, that every topic that is named exists, and that a wheel carries all pages."""

from __future__ import annotations

import ast
import re
import tomllib
import zipfile
from pathlib import Path

import pytest

from esops import manual
from esops.audit.modelling import RULES
from esops.errors import EsopsError, UsageError
from esops.health.findings import CODES
from tests.support.sources import nodes

ROOT = Path(__file__).parents[2]
TEXTS = [
    *sorted((ROOT / "esops").rglob("*.py")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
]
NAMED = re.compile(r"esops docs ([a-z][\w-]*)(?: (\{[^}]*\}|[\w-]+))?")


def named():
    for file in TEXTS:
        for match in NAMED.finditer(re.sub(r'"\s*\n\s*f?"', "", file.read_text(encoding="utf-8"))):
            yield file.relative_to(ROOT), match[1], match[2]


def test_every_topic_that_a_hint_a_finding_or_a_page_names_exists():
    known = manual.topics()
    found = list(named())
    assert len(found) >= 8
    assert [each for each in found if each[1] not in known] == []


@pytest.mark.parametrize(
    ("topic", "sections"), [("doctor", list(CODES)), ("modelling-rules", list(RULES))]
)
def test_what_a_finding_names_is_a_section(topic, sections):
    for section in sections:
        assert manual.topic(topic).readable(section).count(section) >= 1


@pytest.mark.xdist_group("sources")
def test_hints_name_topics_and_no_path_into_a_checkout():
    for file, found in nodes().items():
        docstrings = {node.value for node in found if isinstance(node, ast.Expr)}
        for node in found:
            if isinstance(node, ast.Constant) and node not in docstrings:
                assert not re.search(r"docs/[\w-]+/[\w-]+\.md", str(node.value)), (
                    file,
                    node.lineno,
                )


def test_topics_have_names_of_their_own():
    pages = [page for kind in manual.KINDS for page in (ROOT / "docs" / kind).glob("*.md")]
    assert len(manual.topics()) == len(pages)


def test_a_page_reads_well_without_its_site():
    page = manual.topic("audit-streams").readable()
    assert "(`esops docs short-streams`)" in page
    for topic in manual.topics().values():
        text = topic.readable()
        assert not re.search(r"\]\((?!https?:)[^)]*\.md\)", text)
        assert not re.search(r"!\[[^\]]*\]\(", text)


def test_a_section_ends_at_the_next_heading_of_its_level():
    text = "# T\n\n## One\na\n### Deeper\nb\n```\n# no heading\n```\n## Two\nc\n"
    topic = manual.Topic("t", "how-to", "T", text)
    assert topic.sections() == ["One", "Deeper", "Two"]
    assert topic.readable("one") == "## One\na\n### Deeper\nb\n```\n# no heading\n```\n"
    assert topic.readable("Two") == "## Two\nc\n"


def test_what_there_is_not_is_a_mistake_with_the_nearest_name():
    with pytest.raises(UsageError) as caught:
        manual.topic("setled-reads")
    assert caught.value.hint == "Did you mean 'settled-reads'?"
    with pytest.raises(UsageError) as caught:
        manual.topic("doctor").readable("esops-d0003")
    assert "ESOPS-D003" in caught.value.hint


def test_an_installation_without_pages_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(manual, "files", lambda _: tmp_path)
    monkeypatch.setattr(manual, "__file__", str(tmp_path / "esops" / "manual.py"))
    with pytest.raises(EsopsError, match="no documentation"):
        manual.topics()


def test_a_wheel_carries_every_page(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel")
    (made,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(made).namelist())
    for kind in manual.KINDS:
        for page in (ROOT / "docs" / kind).glob("*.md"):
            assert f"esops/docs/{kind}/{page.name}" in names


def test_every_folder_of_topics_goes_into_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {f"docs/{kind}": f"esops/docs/{kind}" for kind in manual.KINDS}


def test_the_command_lists_topics_and_shows_one(project):
    topics = project.ok("docs", "--output", "json").json
    assert {"topic": "exit-codes", "kind": "reference", "title": "Exit codes"} in topics
    page = project.ok("docs", "exit-codes")
    assert page.out.startswith("# Exit codes\n")
    assert "\x1b" not in page.out
    assert project.ok("docs", "doctor", "ESOPS-D003").out.startswith("### ESOPS-D003\n")
    assert project.ok("docs", "doctor", "ESOPS-D003", "--output", "json").json["topic"] == "doctor"
    assert project.run("docs", "nonsense-page").code == 2


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("D3", "Did you mean 'ESOPS-D003'?"),
        ("ESOPS-D999", f"Did you mean '{max(CODES)}'?"),
        ("nope", f"Its sections are the codes {min(CODES)} to {max(CODES)}."),
    ],
)
def test_a_section_that_is_not_there_is_answered_with_the_nearest_code(asked, meant):
    with pytest.raises(UsageError, match="has no section") as caught:
        manual.topic("doctor").readable(asked)
    assert caught.value.hint == meant


def test_a_section_is_found_by_a_word_that_only_its_heading_has():
    topic = manual.Topic("t", "how-to", "T", "# T\n\n## esops run [X]\na\n## esops runs\nb\n## z\n")
    assert topic.readable("[X]").startswith("## esops run [X]")
    with pytest.raises(UsageError, match="several"):
        topic.readable("run")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (
            "rebuild",
            (
                "There is: commands, deploy-with-ci, first-rebuild, rebuild-compacted-streams, "
                "rebuild-without-downtime."
            ),
        ),
        ("doctr", "Did you mean 'doctor'?"),
        ("progress", "All topics: esops docs"),
    ],
)
def test_a_topic_that_is_not_there_is_answered_with_those_that_may_be_meant(wrong, hint):
    with pytest.raises(UsageError) as found:
        manual.topic(wrong)
    assert found.value.hint == hint


def test_a_command_is_found_by_its_name():
    """Also where its name is a word of other headings: an argument, for example."""
    assert manual.topic("commands").readable("projection").startswith("## esops projection\n")


@pytest.mark.parametrize(
    ("command", "guide"),
    [
        ("schema", "see-how-events-changed"),
        ("infer", "describe-events-with-schemas"),
        ("check", "check-history-against-schemas"),
        ("decode", "can-new-code-read-old-events"),
        ("compat", "compare-schemas"),
        ("contracts", "private-and-public-events"),
    ],
)
def test_who_asks_for_a_command_is_told_its_guide_and_the_page_of_commands(command, guide):
    with pytest.raises(UsageError) as told:
        manual.topic(command)
    assert {guide, "commands"} <= set(re.findall(r"[a-z-]+", told.value.hint))
