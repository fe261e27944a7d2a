"""Pause, resume, throttle, switch and roll back: the commands themselves, each in a process of its
own.

A server that lives for weeks must not judge versions by code that it imported weeks ago. A new
process reads esops.toml and the project's code as they are now, refuses what the command refuses,
and leaves the same record.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from esops.errors import Busy, EsopsError, Refused, Stopped, Unavailable, UsageError
from esops.web.jobs import Job

ControlName = Literal["pause", "resume", "throttle", "switch", "rollback"]
PLANNED: tuple[ControlName, ...] = ("switch", "rollback")
"""Controls whose command can say beforehand what it would do."""
LIMITS = ("max_rate", "max_load", "max_lag_bytes", "nice")
_ERRORS: dict[int, type[EsopsError]] = {
    each.exit_code: each for each in (UsageError, Unavailable, Busy, Stopped, Refused)
}
_AT_ONCE = 3
"""Commands that run at a time: plans, and what was confirmed."""
_PATIENCE = 30.0
"""Seconds that a command gets to end when the server ends."""


class CommandResult(NamedTuple):
    """What a command printed: its JSON, and what it said beside it."""

    result: Mapping[str, Any]
    said: Sequence[str]


@dataclass(frozen=True)
class Control:
    """What somebody asked for."""

    name: ControlName
    projection: str
    values: Mapping[str, str]
    """The fields of the form."""

    @property
    def title(self) -> str:
        """What it does, for a person."""
        what = {"rollback": "Roll back", "throttle": "Limit"}.get(self.name, self.name.capitalize())
        to = f" to v{self.values['to']}" if self.values.get("to") else ""
        return f"{what} {self.projection}{to}"

    def arguments(self, *, dry_run: bool = False) -> list[str]:
        """The arguments of the command. Raises UsageError for fields that are no numbers."""
        found = ["projection", self.name]
        if self.name == "switch" and self.values.get("to"):
            found += ["--to", _number("version", self.values["to"], whole=True)]
        if self.name == "throttle":
            found += self._limits()
        if dry_run:
            found.append("--dry-run")
        # Last, behind a mark: a name that begins with a dash is still a name.
        return [*found, "--output", "json", "--", self.projection]

    def _limits(self) -> list[str]:
        given = {name: self.values.get(name, "").strip() for name in LIMITS}
        # With --off, limits whose field is empty are lifted: the form shows all of them.
        found = ["--off"]
        for name, text in given.items():
            if text:
                whole = name not in ("max_rate", "nice")
                found += [f"--{name.replace('_', '-')}", _number(name, text, whole=whole)]
        return found

    def in_words(self, *, dry_run: bool = False) -> str:
        """The command as a person would type it."""
        shown = [each for each in self.arguments(dry_run=dry_run) if each not in ("--", "json")]
        shown.remove("--output")
        shown.insert(2, shown.pop())
        return " ".join(["esops", *shown])


def _number(name: str, text: str, *, whole: bool) -> str:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise UsageError(f"{name.replace('_', ' ')}: {text!r} is not a number") from None
    if value < 0 or value != value or value == float("inf"):  # noqa: PLR0124 - NaN is not itself
        raise UsageError(f"{name.replace('_', ' ')}: {text!r} is not a number that can be used")
    return str(value)


class Commands:
    """Runs commands of esops, and lets them end in order when the server ends."""

    def __init__(self, config: Path) -> None:
        """The configuration that they read."""
        self._config = config
        self._running: set[asyncio.subprocess.Process] = set()
        self._ended = False
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def plan(self, control: Control) -> CommandResult:
        """What a control would do. Raises what the command refuses."""
        return await self._run(control.arguments(dry_run=True))

    async def perform(self, control: Control, job: Job) -> CommandResult:
        """Do it; `job` gets what the command says. Raises as the command does."""
        return await self._run(control.arguments(), job)

    async def end(self) -> None:
        """Begin no more commands, ask those that still run to stop, and wait for them."""
        self._ended = True
        for each in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                each.send_signal(signal.SIGTERM)
        waits = [asyncio.ensure_future(each.wait()) for each in self._running]
        if waits:
            await asyncio.wait(waits, timeout=_PATIENCE)

    async def _run(self, arguments: Sequence[str], job: Job | None = None) -> CommandResult:
        async with self._turns:
            if self._ended:
                raise Stopped("the server ends; nothing was changed")
            return await self._started(arguments, job)

    async def _started(self, arguments: Sequence[str], job: Job | None) -> CommandResult:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "esops", "--config", str(self._config), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # The token is not the command's business.
            env={key: value for key, value in os.environ.items() if key != "ESOPS_SERVE_TOKEN"},
            # Ctrl-C at the server's terminal is for the server, which ends its commands itself.
            start_new_session=True,
        )
        self._running.add(process)
        try:
            said: list[str] = []

            async def listen() -> None:
                assert process.stderr is not None
                async for line in process.stderr:
                    text = line.decode(errors="replace").rstrip()
                    said.append(text)
                    if job is not None and text:
                        job.say(text)

            assert process.stdout is not None
            out, _ = await asyncio.gather(process.stdout.read(), listen())
            code = await process.wait()
        finally:
            self._running.discard(process)
        return concluded(code, out, said)


def concluded(code: int, out: bytes, said: Sequence[str]) -> CommandResult:
    """What a command came to. Raises the error that it printed, with its hint."""
    try:
        result = orjson.loads(out) if out.strip() else {}
    except orjson.JSONDecodeError:
        result = {}
    # Done, but for something that the operator should know, such as that nothing works on it now.
    warned = code == 1 and not any(each.startswith("error: ") for each in said)
    if (code == 0 or warned) and isinstance(result, dict):
        return CommandResult(result, [each for each in said if each])
    message = next((it[7:] for it in said if it.startswith("error: ")), "")
    hint = next((it[6:] for it in said if it.startswith("hint: ")), None)
    raise _ERRORS.get(code, EsopsError)(
        message or f"the command ended with exit code {code}", hint=hint
    )
