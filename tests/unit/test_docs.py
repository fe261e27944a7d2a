"""The docs say what is there: every key, command and option, every link, every figure's limit."""

from __future__ import annotations

import re
import runpy
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from esops.health.metrics import NAMES
from esops.settings import (
    STORE_SETTINGS,
    ArchiveSettings,
    AuditSettings,
    BudgetSettings,
    EraseSettings,
    PolicySettings,
    ProjectionSettings,
    ReadModelSettings,
    TraceSettings,
)

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))


def test_links_lead_somewhere():
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not dead, "\n".join(dead)


SECTIONS = [*STORE_SETTINGS.values()]
SECTIONS += [ReadModelSettings, ProjectionSettings, ArchiveSettings, PolicySettings]
SECTIONS += [EraseSettings, AuditSettings, BudgetSettings, TraceSettings]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_configuration_key_is_in_the_reference(section):
    text = (ROOT / "docs/reference/configuration.md").read_text()
    for name, field in section.model_fields.items():
        key = field.alias or name
        if field.exclude:
            continue
        assert f"`{key}" in text, key


def test_the_table_of_capabilities_is_what_the_code_says():
    script = runpy.run_path(str(ROOT / "docs/reference/capabilities.py"))
    page = (ROOT / "docs/reference/stores.md").read_text()
    assert page == script["written"](page), "run: python docs/reference/capabilities.py"
    assert re.search(r"\| part `admin` \|( no \|)+ yes \|", page)


def test_dashboard_and_alerts_name_metrics_that_exist():
    for page in ("alerts.yml", "grafana.json"):
        named = set(re.findall(r"\besops_[a-z_]+", (ROOT / "docs/monitoring" / page).read_text()))
        assert named
        assert named <= set(NAMES), named - set(NAMES)
    reference = (ROOT / "docs/reference/metrics.md").read_text()
    for name, (_, labels) in NAMES.items():
        assert f"`{name}`" in reference
        assert all(f"`{label}`" in reference for label in labels)


def test_every_command_and_option_is_in_the_reference(project):
    text = (ROOT / "docs/reference/commands.md").read_text()
    known = set(re.findall(r"--[a-z-]+", text))
    groups = {
        (): [
            "init",
            "doctor",
            "status",
            "metrics",
            "serve",
            "plan",
            "rebuild",
            "run",
            "wait",
            "events",
            "projection",
            "archive",
            "erase",
            "audit",
            "trace",
            "demo",
        ]
    }
    for command in (
        [],
        *([each] for each in groups[()]),
        *(
            ["projection", each]
            for each in (
                "list",
                "show",
                "versions",
                "switch",
                "rollback",
                "retire",
                "dead-letters",
                "step",
                "test",
            )
        ),
        *(["audit", each] for each in ("streams", "stream", "events", "modelling")),
        *(["trace", each] for each in ("correlation", "event", "stream")),
        *(
            ["archive", each]
            for each in ("plan", "run", "list", "show", "verify", "restore", "query", "gc")
        ),
    ):
        shown = project.ok(*command, "--help").out
        options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", shown, re.MULTILINE)) - {
            "--install-completion",
            "--show-completion",
            "--version",
        }
        assert options <= known, (command, options - known)
        if len(command) == 2:
            assert f"`{command[1]}" in text


def test_the_pipelines_are_yaml_and_their_commands_exist(project):
    page = (ROOT / "docs/how-to/deploy-with-ci.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    github, gitlab = map(yaml.safe_load, blocks)
    assert {*github["jobs"]} == {"plan", "rebuild", "decide"}
    assert {*gitlab["stages"]} == {each["stage"] for each in gitlab.values() if "stage" in each}
    lines = re.findall(r"\besops ((?:plan|rebuild|wait)\b[^|>;\n]*)", "\n".join(blocks))
    assert {line.split()[0] for line in lines} == {"plan", "rebuild", "wait"}
    for line in lines:
        name, *words = line.split()
        shown = project.ok(name, "--help").out
        assert {word for word in words if word.startswith("--")} <= {
            *re.findall(r"--[a-z-]+", shown)
        }


def test_no_page_and_no_package_file_names_a_host_or_a_path_of_a_machine():
    for page in [*PAGES, ROOT / "constraints.txt", ROOT / "pyproject.toml", ROOT / "Makefile"]:
        assert not re.search(r"(^|[^A-Za-z0-9_.:-])/(work|root|home)/", page.read_text()), page
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_contributing_names_files_that_are_there():
    named = re.findall(
        r"^\| .* \| `(esops/[^`]+)` \|$",
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(named) >= 36
    assert [path for path in named if not (ROOT / path).exists()] == []


NOT_SENTENCE_ENDS = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf)\.")
LIST_NUMBER = re.compile(r"^\s*\d+\. ")
TWO_SENTENCES = re.compile(r"[.!?][)\"\u201d*_]*\s+[(\"*_\[]*[A-Z]")


def prose(page: Path) -> list[tuple[int, str]]:
    """Numbered lines of text: no code, no tables, no headings, with code spans emptied."""
    found, fenced = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        text = NOT_SENTENCE_ENDS.sub("", re.sub(r"`[^`]*`", "`x`", line)).rstrip()
        text = LIST_NUMBER.sub("", text)
        if fenced or line.startswith("    ") or line.lstrip().startswith(("|", "#", "<!--")):
            text = ""
        found.append((number, text))
    return found


def test_each_line_of_prose_holds_one_sentence():
    """So that a change of one sentence is a change of one line in a review."""
    pages = {page.relative_to(ROOT): prose(page) for page in PAGES}
    two = [
        f"{page}:{number}: {text}"
        for page, lines in pages.items()
        for number, text in lines
        if TWO_SENTENCES.search(text)
    ]
    assert not two, "\n".join(["break the line after each sentence", *two])
    cut = [
        f"{page}:{number}: {text}"
        for page, lines in pages.items()
        for (number, text), (_, below) in pairwise(lines)
        if text
        and below
        and not re.match(r"\s*[-*] ", below)
        and not text.endswith((".", ":", "?", "!", ";", "**", "*", "·"))
    ]
    assert not cut, "\n".join(["keep a sentence on one line", *cut])


def test_the_glossary_lists_each_word_once_in_names_that_exist():
    page = (ROOT / "docs/reference/glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^- \*\*([^*]+)\*\*", page, re.MULTILINE)
    assert len(words) > 100
    assert len(words) == len(set(words))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "esops").rglob("*.py"))
    shown = re.findall(r"\(([^()]*)\)", page)
    classes = re.findall(r"`([A-Z][A-Za-z]+)`", " ".join(shown))
    assert [
        name
        for name in classes
        if not re.search(rf"^(?:class {name}\b|{name} = )", sources, re.MULTILINE)
    ] == []
    modules = re.findall(r"`([a-z_/]+\.py)`", page)
    assert [module for module in modules if not list((ROOT / "esops").rglob(module))] == []


def proven() -> dict[tuple[str, str], str]:
    """The rows of the table of what was tried: system and version, and what is said of them."""
    page = (ROOT / "docs/reference/stores.md").read_text()
    table = page.partition("## What was tried on the real systems")[2]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    return {(row[0].strip(), row[1].strip()): row[2].strip() for row in rows[1:]}


DUMPS = sorted((ROOT / "tests/fixtures").glob("*.sql"))
NUMBERS = {"A": 1, "Nine": 9}


def test_each_database_of_a_real_library_stands_in_the_table_of_what_was_tried():
    counted: dict[tuple[str, str], int] = {}
    for dump in DUMPS:
        library, version = re.fullmatch(
            r"(.+?)-(\d[\w.]*(?:-beta\.\d+)?)(?:-v\w+)?", dump.stem
        ).groups()
        (row,) = [
            key
            for key in proven()
            if key[0].lower().startswith(library)
            and re.match(rf"{re.escape(version)}(\.\d+)?(\D|$)", key[1])
        ]
        counted[row] = counted.get(row, 0) + 1
    for row, tried in proven().items():
        said = re.search(r"(\w+) databases? that it wrote", tried)
        assert (NUMBERS[said[1]] if said else 0) == counted.get(row, 0), row
        assert dump.with_suffix(".json").exists()


def test_the_readme_claims_no_version_that_the_table_does_not():
    """A version that was tried stands in a row that says what; one known by source in one that says
    so."""
    rows = re.findall(
        r"^\| (\w[\w-]+) \| (.*?) \| ?(.*?) ?\|$", (ROOT / "README.md").read_text(), re.M
    )
    rows = [
        row
        for row in rows
        if row[0]
        in {"Marten", "Emmett", "message-db", "eventsourcing", "EventStoreDB", "PostgreSQL"}
    ]
    assert len(rows) == 6
    for system, tried, by_source in rows:
        of_it = [(key[1], said) for key, said in proven().items() if key[0].startswith(system)]
        for number in re.findall(r"\d+(?:\.\d+)?", re.sub(r"\(.*?\)", "", tried)):
            assert any(v.startswith(number) and not s.startswith("Nothing") for v, s in of_it)
        for number in re.findall(r"\d+(?:\.\d+)*", by_source):
            assert any(number in v and s.startswith("Nothing") for v, s in of_it), number


def test_the_page_about_installing_lists_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs/how-to/install.md").read_text()
    listed = re.findall(r"^\| `esops\[(\w+)\]` \|", page, re.M)
    assert {*listed} == {*project["optional-dependencies"]} - {"dev"}


def test_the_table_of_changes_between_schemas_is_what_the_code_says():
    script = runpy.run_path(str(ROOT / "docs/reference/schema_rules.py"))
    page = (ROOT / "docs/how-to/compare-schemas.md").read_text()
    assert page == script["written"](page), "run: python docs/reference/schema_rules.py"
