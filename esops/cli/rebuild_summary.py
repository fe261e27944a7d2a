"""What `esops rebuild` says at its end: what happened, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from esops.wording import became_dead_letters, count

if TYPE_CHECKING:
    from esops.rebuild.api import Outcome
    from esops.settings import ProjectionSettings

_SAMPLES = 3
_PATHS = 10


def summary(outcome: Outcome, settings: ProjectionSettings) -> list[str]:
    """Lines for a person."""
    noun = "partition" if settings.kind == "server" else "row"
    # What differed is of no use any more once green is dropped.
    found = {} if outcome.state == "aborted" else outcome.verification or {}
    lines = [*_verification(found, noun), *_ending(outcome, settings, noun)]
    if outcome.dead_letters:
        lines.append(
            f"{count(outcome.dead_letters, 'event')} {became_dead_letters(outcome.dead_letters)} "
            f"from v{outcome.to_version}: esops projection dead-letters {outcome.projection}"
        )
    return lines


def _verification(found: Mapping[str, Any], noun: str) -> list[str]:
    lines = []
    if found.get("method", "none") != "none":
        # A comparison in a server that runs on has no common position.
        where = f" at position {found['position']}" if found.get("position") else ""
        lines.append(
            f"verified ({found['method']}{where}): {count(found['rows_blue'] or 0, noun)} in blue, "
            f"{found['rows_green']:,} in green, {found['differing']:,} differ"
        )
        if found.get("note"):
            lines.append(f"  {found['note']}")
        if found.get("compared"):
            lines.append(f"  a sample: {found['compared']:,} pairs of {noun}s were compared")
        # Columns that were expected to differ first, so that the others end the list.
        for columns, why in (("expected", ", as expected"), ("columns", "")):
            lines += [
                f"  column {column}: differs in {count(differing, noun)}{why}"
                for column, differing in found.get(columns, {}).items()
            ]
        lines += _paths(found, noun)
        for side in ("blue", "green"):
            if only := found.get(f"only_{side}"):
                lines.append(f"  only in {side}: {count(only, noun)}")
        lines += _samples(found)
    return lines + [f"  assertion failed: {each}" for each in found.get("failed_assertions", ())]


def _paths(found: Mapping[str, Any], noun: str) -> list[str]:
    """Where JSON differs, the most frequent paths first."""
    paths = found.get("paths") or {}
    of = f" of the {found['paths_of']:,} that were looked at" if paths else ""
    lines = [
        f"  path {path}: differs in {count(differing, noun)}{of}"
        for path, differing in islice(paths.items(), _PATHS)
    ]
    if len(paths) > _PATHS:
        lines.append(f"  and {len(paths) - _PATHS:,} more paths (--output json has all)")
    return lines


def _samples(found: Mapping[str, Any]) -> list[str]:
    from esops.term import to_json

    return [f"  for example {to_json(sample)}" for sample in found.get("samples", ())[:_SAMPLES]]


def _ending(outcome: Outcome, settings: ProjectionSettings, noun: str) -> list[str]:
    name, version, did = outcome.projection, outcome.to_version, _work(outcome, noun)
    external = settings.kind == "external"
    if outcome.state in ("switched", "retired"):
        return _switched(outcome, settings, did)
    failed = _failed(outcome)
    # The same version before and after: it was rebuilt in place, and nothing can be switched.
    if outcome.findings and outcome.dead_letters and not failed and not outcome.warnings:
        return _dead_letters(outcome, did)
    if outcome.findings and outcome.from_version == version:
        if not failed:
            return [
                f"{name} v{version} is rebuilt in place, but {'; '.join(outcome.warnings)}: {did}.",
                f"If that is right: esops rebuild {name} --resume --accept-fewer",
            ]
        return [
            f"{name} v{version} is rebuilt in place, but assertions failed: {did}.",
            f"Correct them, and check again with: esops rebuild {name} --resume",
        ]
    if outcome.findings and outcome.warnings and not failed:
        command = f"esops rebuild {name} --blue-green"
        return [
            f"Nothing was switched to {name} v{version}: {'; '.join(outcome.warnings)}.",
            (
                f"If that is right: {command} --resume --accept-fewer. Otherwise drop it: "
                f"{command} --abort"
            ),
        ]
    if outcome.findings:
        command = f"esops rebuild {name} --blue-green"
        return [
            (
                f"{name} v{version} differs from the version that serves, so nothing was switched: "
                f"{did}."
            ),
            f"{_next_step(outcome, command)}. Otherwise drop it: {command} --abort",
        ]
    match outcome.state:
        case "aborted":
            left = (
                "What the application has built stays."
                if external
                else "What it built is dropped; nothing else was changed."
            )
            return [f"Rebuild {outcome.rebuild} of {name} is aborted. {left}"]
        case "rebuilt":
            return [
                f"{name} v{version} is rebuilt in place: {did}.",
                "Nothing keeps it fresh now: start `esops run`.",
            ]
        case "tested":
            left = "left to the application" if external else "dropped again"
            return [
                f"{name} was built and verified as v{version}, and {left} (--test-only): {did}."
            ]
        case "verified":
            return [f"{name} v{version} is built and stands by: {did}.", _later(outcome, settings)]
        case state:
            return [f"Rebuild {outcome.rebuild} of {name} is {state}: {did}."]


def _later(outcome: Outcome, settings: ProjectionSettings) -> str:
    """What can be done with a version that was built with --no-switch."""
    name, version = outcome.projection, outcome.to_version
    if settings.live == "app" and settings.kind != "external":
        return (
            "The application keeps only what serves fresh, so nothing can switch to it later. To "
            "hand over, rebuild without --no-switch. Drop this one: esops projection retire "
            f"{name} {version}"
        )
    return f"Switch to it with: esops projection switch {name} --to {version}"


def _next_step(outcome: Outcome, command: str) -> str:
    from esops.rebuild.verification.result import enough

    found = outcome.verification or {}
    if found.get("failed_assertions"):  # no --max-diff lets these through
        return f"Correct what the assertions found, and compare again: {command} --resume"
    of = found.get("compared") or found.get("rows_blue")
    most = enough(found.get("differing") or 0, of)
    return f"If the differences are what you want: {command} --resume --max-diff {most}"


def _dead_letters(outcome: Outcome, did: str) -> list[str]:
    name, version = outcome.projection, outcome.to_version
    in_place = outcome.from_version == version
    command = f"esops rebuild {name}" + ("" if in_place else " --blue-green")
    allow = f"{command} --resume --max-dead-letters {outcome.dead_letters}"
    what = f"v{version} is rebuilt in place" if in_place else f"was not switched to v{version}"
    lines = [f"{name} {what}, but it is not complete: {did}."]
    if in_place:
        return [*lines, f"If those events may be left out: {allow}"]
    return [
        *lines,
        (
            "Fix the code, and replay them: esops projection dead-letters "
            f"{name} replay --accept-code. Then continue with: {command} --resume"
        ),
        f"If they may be left out: {allow}. Or drop this rebuild: {command} --abort",
    ]


def _failed(outcome: Outcome) -> bool:
    """Whether rows differ or an assertion failed, beside what else there is to find."""
    found = outcome.verification or {}
    return bool(found.get("failed_assertions") or found.get("differing"))


def _work(outcome: Outcome, noun: str) -> str:
    from esops.term import duration

    return (
        f"{count(outcome.events, 'event')} into {count(outcome.rows or 0, noun)} in "
        f"{duration(outcome.seconds)} ({outcome.events_per_second:,.0f} events/s)"
    )


def _switched(outcome: Outcome, settings: ProjectionSettings, did: str) -> list[str]:
    name = outcome.projection
    lines = [f"{name} v{outcome.to_version} serves now: {did}.", _kept_fresh(outcome, settings)]
    if outcome.lock is not None:
        lines += locked(outcome.lock)
    if outcome.state == "retired":
        return [*lines, f"v{outcome.from_version} is retired, so there is no way back to it."]
    if settings.live == "inline":
        lines.append(
            "Now deploy the new code. Until the last instance with the old code has ended, it "
            f"writes rows by the old logic. After that: esops projection finish {name}"
        )
    if outcome.from_version and settings.live == "inline":
        lines.append(
            "To go back, first restore the old code, in the application and where esops.toml finds "
            f"it. Then: esops projection rollback {name}. When all is well, drop "
            f"v{outcome.from_version}: esops projection retire {name}"
        )
    elif outcome.from_version and settings.live == "app" and settings.kind != "external":
        lines.append(
            f"v{outcome.from_version} does not advance, so there is no rollback to it: to go back, "
            "rebuild with the code before, and let the application run that code. When all is "
            f"well, drop v{outcome.from_version}: esops projection retire {name}"
        )
    elif outcome.back_is_stale:
        lines.append(
            f"esops does not keep v{outcome.from_version} fresh. To go back to its rows, however "
            f"old: esops projection rollback {name} --allow-stale. When all is well, drop "
            f"v{outcome.from_version}: esops projection retire {name}"
        )
    elif outcome.from_version:
        accept = " --accept-code" if outcome.back_is_of_two_codes else ""
        lines.append(
            f"To go back: esops projection rollback {name}{accept}. When all is well, drop "
            f"v{outcome.from_version}: esops projection retire {name}"
        )
    return lines


def locked(lock: Mapping[str, float]) -> list[str]:
    """What the application waited for."""
    return [
        (
            f"The switch held its lock for {lock['held_seconds'] * 1000:,.0f} ms, after "
            f"{count(int(lock['tries']), 'try', 'tries')}, and applied "
            f"{count(int(lock['events']), 'event')} under it."
        )
    ]


def _kept_fresh(outcome: Outcome, settings: ProjectionSettings) -> str:
    if settings.kind == "server":
        return "The store keeps it fresh."
    if settings.kind == "external":
        return "The application keeps it fresh."
    if settings.live == "inline":
        return "The application writes it with each append."
    if settings.live == "app":
        return "The application keeps it fresh: start its projector, with the code of these rows."
    if outcome.followed:
        return "`esops run` starts keeping it fresh within seconds."
    return "Nothing keeps it fresh now: start `esops run`."
