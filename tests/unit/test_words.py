"""One word, one meaning: names in the code, the docs and every text of esops avoid the words that
are out. docs/reference/glossary.md lists the words that are in.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sources import SOURCES, nodes

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("sources")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
OTHER_TEXTS = sorted((ROOT / "esops").rglob("*.sql")) + sorted((ROOT / "esops").rglob("*.j2"))
OTHER_TEXTS += sorted((ROOT / "tests/snapshots").rglob("*.txt"))

NAMES_OUT = {
    "ground": "context",
    "go_on": "resume, proceed or check_stop",
    "gone_on": "resumed",
    "set_about": "start",
    "give_up": "abort",
    "shelve": "archive",
    "shelf": "archiver",
    "way": "removal strategy, or what it is",
    "way_out": "RemovalStrategy",
    "ways": "removals, or what they are",
    "put_back": "restore",
    "further": "extra",
    "told": "response, variables, message: what it is",
    "teller": "Reporter",
    "watcher": "reporter",
    "journey": "RunContext",
    "chosen": "Selection, or what was selected",
    "gate": "Throttle",
    "wish": "ControlRequest",
    "wishes": "ControlRequest",
    "plains": "names, ReadModelName",
    "elsewhere": "archived_away",
    "dealt": "split, shard_predicate",
    "deal": "split, shard_predicate",
    "drawn_along": "side_effects",
    "dear": "expensive",
    "guess": "estimate",
    "guessed": "estimated",
    "mend": "fix",
    "mended": "fixed",
    "programs": "hooks",
    "letters": "dead_letters",
    "people": "workload",
}
"""Names of modules, classes, functions, parameters and variables, as whole words of a name."""
NAMES_IN = {"dead_letters", "under_way", "both_ways"}

PHRASES_OUT = {
    r"(?:gone|going) on with|go(?:es)? on with": "resume, continue",
    r"(?:goes|went|gone) on": "continue, resume",
    r"go on(?!.to\b)": "continue, resume",
    r"sets? about|setting about": "start",
    r"puts? back|putting back": "restore, reset",
    r"brought on|brings? it on": "advance",
    r"further columns?": "extra columns",
    r"ways? out": "removal",
    r"has no way": "cannot",
    r"shelv(?:e|es|ed|ing)|shelf": "archive",
    r"dealt|deals? (?:the|its) streams": "split into shards",
    r"mend(?:s|ed|ing)?": "fix",
    r"notes apart": "notes do not count",
    r"(?:the )?gravest": "the most severe",
    r"so it is (?:if|where|when)": "(the default)",
    r"goes about it": "a plain sentence",
    r"looked at (?:once )?again": "checked again",
    r"stands? at": "is at",
    r"is at it": "is running it",
    r"dear(?:er|est)?": "expensive",
    r"wish(?:es)?": "request",
    r"what it may take": "limits",
    r"put (?:the|its|that) code back": "restore the code",
    r"which the \w+ has not": "subject, verb, object",
    r"have not been passed by": "has not read them yet",
    r"moves? it on": "advance",
    r"nobody works on it": "no process is working on it",
    r"at work on it": "working on it",
    r"gives? \w+ up with": "abort",
    r"holes?": "missing numbers",
    r"pass(?:es|ed|ing) over": "skip",
    r"(?:takes?|taken|took|taking) (?:\w+ )?(?:\w+ )?out": "remove",
    r"(?:bring|brings|brought|bringing) (?:\w+ )?(?:\w+ )?back": "restore",
    r"(?:is|are|was|were) there already": "already exists",
    r"so many": "this many, up to N",
    r"so long (?:ago|after|before|as it works)": "this long",
    r"nothing of (?:it|the kind)": "nothing was found, or a plain sentence",
    r"to be (?:had|seen)": "a plain sentence",
    r"as (?:it|they) stands?": "as it is now",
    r"stands? still": "does not advance, is stopped",
    r"meanwhile": "in the meantime, while …",
    r"anew": "again, from the beginning",
    r"(?:came|comes) of": "resulted from, was caused by",
    r"(?<!reads.\")1 (?:streams|events|rows|files|runs|versions|shards)": "wording.count",
}
"""Phrases in texts that people read, docstrings and comments, in any case."""
BETWEEN = r"""\s*["']?\s+(?:f?["'])?"""
PATTERNS = {
    re.compile(rf"\b(?:{phrase.replace(' ', BETWEEN)})\b", re.IGNORECASE): instead
    for phrase, instead in PHRASES_OUT.items()
}
"""A phrase may be broken over lines, and over the parts of a string."""
ANY = re.compile("|".join(f"(?:{pattern.pattern})" for pattern in PATTERNS), re.IGNORECASE)
"""All of them at once: nearly every text has none, and is read once for all."""


F_STRING = {getattr(tokenize, name) for name in ("FSTRING_MIDDLE",) if hasattr(tokenize, name)}


def segments(name: str) -> list[str]:
    """The words of a name: `read_modelName2` -> read, model, name2."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return [each for each in spaced.lower().split("_") if each]


@functools.cache
def out(name: str) -> str | None:
    """The first word of a name that is out."""
    text = f"_{'_'.join(segments(name))}_"
    for kept in NAMES_IN:
        text = text.replace(f"_{kept}_", "_")
    return next((word for word in NAMES_OUT if f"_{word}_" in text), None)


def names(module: list[ast.AST]) -> Iterator[tuple[int, str]]:
    """Every name that a module gives to something, with its line."""
    for node in module:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str(alias)):
                yield node.lineno, alias


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Every text of a module, with its line: strings, f-strings and comments; what stands together
    in lines that follow each other is one text.
    """
    text, first, last = "", 0, 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in {tokenize.STRING, tokenize.COMMENT, *F_STRING}:
            continue
        if text and token.start[0] - last <= 1:
            text += ("\n" if token.start[0] > last else " ") + token.string.lstrip("# ")
        else:
            if text:
                yield first, text
            text, first = token.string.lstrip("# "), token.start[0]
        last = token.end[0]
    if text:
        yield first, text


def phrases_out(text: str) -> Iterator[tuple[int, str]]:
    """What is out in a text, with the number of its line and what to write instead."""
    if not ANY.search(text):
        return
    for pattern, instead in PATTERNS.items():
        for found in pattern.finditer(text):
            shown = " ".join(found[0].split())
            yield text.count("\n", 0, found.start()), f"{shown!r}: write {instead}"


def test_names_are_the_fields_words():
    wrong = {
        f"{source.relative_to(ROOT)}:{line}: {name!r}: write {NAMES_OUT[word]}"
        for source in SOURCES
        for line, name in [
            (0, source.stem),
            *names(nodes()[source]),
        ]
        if (word := out(name))
    }
    assert not wrong, "\n".join(sorted(wrong))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, text
    else:
        yield from texts(text)


@pytest.mark.thorough
def test_texts_are_plain_english():
    wrong = [
        f"{path.relative_to(ROOT)}:{line + below}: {what}"
        for path in [*PAGES, *OTHER_TEXTS, *SOURCES]
        for line, text in _lines(path)
        for below, what in phrases_out(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_word_that_is_out_is_found():
    assert out("_PUT_BACK") == "put_back"
    assert out("StreamShelf") == "shelf"
    assert out("dead_letters") is None
    assert out("aggregate") is None
    broken = 'say("a run that is gone " \n    "on with")'
    assert list(phrases_out(broken))
    assert not list(phrases_out("a recommended amendment: they go on to fix it"))
