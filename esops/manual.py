"""The documentation as the package carries it: topics, their pages, and sections of a page.

A wheel has the pages in `esops/docs/`; in a checkout, and so in an editable install, they are read
from `docs/` beside the package, where they are written. A hint names a topic (`esops docs
settled-reads`) or a section of one (`esops docs doctor ESOPS-D003`), never a path: somebody who
installed a wheel has no `docs/`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from esops.errors import EsopsError, UsageError, nearest

KINDS = ("tutorial", "how-to", "reference", "explanation")
_HEADING = re.compile(r"^(#+) +(.+?)\s*$")
_CODE = re.compile(r"[A-Z]+-[A-Z](\d+)")
_NUMBER = re.compile(r"\d+(?=\D*\Z)")
_FENCE = re.compile(r"^\s*(```|~~~)")
_PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\s*$\n?", re.MULTILINE)
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]*)\)")
_PAGE = re.compile(r"(?:.*/)?(?P<topic>[\w-]+)\.md(?:#(?P<section>[\w-]+))?\Z")


@dataclass(frozen=True)
class Topic:
    """One page of the documentation."""

    name: str
    kind: str
    """The folder it is in: one of KINDS."""
    title: str
    text: str
    """Markdown, as it was written."""

    def as_dict(self) -> dict[str, str]:
        """What a list of topics shows."""
        return {"topic": self.name, "kind": self.kind, "title": self.title}

    def readable(self, section: str | None = None) -> str:
        """The page, or one section of it, as Markdown for a terminal.

        Links to other pages become the commands that show them; pictures are left out. Raises
        UsageError where the page has no such section.
        """
        text = self.text if section is None else self._section(section)
        return _LINK.sub(self._link, _PICTURE.sub("", text))

    def sections(self) -> list[str]:
        """The headings below the title, in their order."""
        return [title for level, title, _ in _headings(self.text) if level > 1]

    def _section(self, asked: str) -> str:
        found, name = _headings(self.text), asked.lower()
        # The heading itself, or the only one that has the word in it.
        matching = [
            at
            for at, (_, title, _) in enumerate(found)
            if name in (title.lower(), _anchor(title), title.lower().removeprefix("esops "))
        ] or [at for at, (_, title, _) in enumerate(found) if name in title.lower()]
        if not matching:
            raise UsageError(
                f"the page {self.name!r} has no section {asked!r}",
                hint=_nearest_section(asked, self.sections()),
            )
        if len(matching) > 1:
            raise UsageError(
                f"the page {self.name!r} has several sections {asked!r}",
                hint="There are: " + ", ".join(found[at][1] for at in matching),
            )
        level, _, start = found[matching[0]]
        ends = (line for deeper, _, line in found[matching[0] + 1 :] if deeper <= level)
        return "\n".join(self.text.splitlines()[start : next(ends, None)]) + "\n"

    def _link(self, match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target:
            return match[0]
        if target.startswith("#"):
            return f"{match['text']} (`esops docs {self.name} {target[1:]}`)"
        page = _PAGE.match(target)
        # The site's front page, a picture or a file: there is no topic to name.
        if page is None or page["topic"] == "index":
            return match["text"]
        section = f" {page['section']}" if page["section"] else ""
        return f"{match['text']} (`esops docs {page['topic']}{section}`)"


def topics() -> dict[str, Topic]:
    """All topics by name: tutorials first, then how-to guides, reference, explanations."""
    found = {}
    folder = _folder()
    for kind in KINDS:
        for page in sorted(folder.joinpath(kind).iterdir(), key=lambda each: each.name):
            if page.name.endswith(".md"):
                name, text = page.name.removesuffix(".md"), page.read_text(encoding="utf-8")
                titles = (title for level, title, _ in _headings(text) if level == 1)
                found[name] = Topic(name, kind, next(titles, name).replace("`", ""), text)
    return found


def topic(name: str) -> Topic:
    """The topic of that name. Raises UsageError that names those that it may mean."""
    known = topics()
    if name not in known:
        wrong = name.lower()
        parts = _about(wrong, known)
        hint = f"There is: {', '.join(parts)}." if parts else "All topics: esops docs"
        if not parts and difflib.get_close_matches(wrong, known, n=1, cutoff=0.75):
            hint = nearest(name, known)
        raise UsageError(f"there is no topic {name!r}", hint=hint)
    return known[name]


def _about(word: str, known: dict[str, Topic]) -> list[str]:
    """The topics with a word in their name; and where it is a command's, those that show it: the
    guides, and the page of all commands.
    """
    found = {name for name in known if word in name}
    command = re.compile(rf"\besops (?:[\w-]+ )?{re.escape(word)}\b")
    shown = {name: len(command.findall(topic.text)) for name, topic in known.items()}
    if shown.get("commands"):
        guides = [each for each in shown if known[each].kind == "how-to" and shown[each]]
        most = max((shown[each] for each in guides), default=0)
        found.update(each for each in guides if 2 * shown[each] >= most)
        found.add("commands")
    return sorted(found)


def _folder() -> Traversable:
    # First what the package itself carries: beside an installed package there may be any `docs/`.
    shipped = files("esops").joinpath("docs")
    if shipped.is_dir():
        return shipped
    checkout = Path(__file__).parents[1] / "docs"
    if checkout.is_dir():
        return checkout
    raise EsopsError("this installation of esops has no documentation", hint="Install it again.")


def _headings(text: str) -> list[tuple[int, str, int]]:
    """Level, title and line of each heading; what looks like one in a block of code is none."""
    found, in_code = [], False
    for number, line in enumerate(text.splitlines()):
        if _FENCE.match(line):
            in_code = not in_code
        elif not in_code and (heading := _HEADING.match(line)):
            found.append((len(heading[1]), heading[2], number))
    return found


def _nearest_section(asked: str, sections: list[str]) -> str:
    """The section that may have been meant; or else which ones there are, without a list of dozens
    of codes.
    """
    codes = {int(code[1]): title for title in sections if (code := _CODE.fullmatch(title))}
    number = _NUMBER.search(asked)
    if codes and number:
        # "D3" and "38" are not like ESOPS-D003 and ESOPS-D036 as texts, but as numbers.
        near = min(codes, key=lambda each: (abs(each - int(number[0])), each))
        return f"Did you mean {codes[near]!r}?"
    if codes:
        first, last = codes[min(codes)], codes[max(codes)]
        return f"Its sections are the codes {first} to {last}."
    return nearest(asked, sections)


def _anchor(title: str) -> str:
    """The name that a page of the site gives to a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower())).strip("-")
