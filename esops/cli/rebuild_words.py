"""What `esops rebuild` says at its end, to a person and to a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esops.rebuild.outcome import Outcome

_SAMPLES = 3


def as_dict(outcome: Outcome) -> dict[str, object]:
    """Under the documented field names."""
    return {
        "rebuild": outcome.rebuild,
        "projection": outcome.projection,
        "state": outcome.state,
        "from_version": outcome.from_version,
        "to_version": outcome.to_version,
        "events": outcome.events,
        "rows": outcome.rows,
        "seconds": round(outcome.seconds, 3),
        "events_per_second": round(outcome.events_per_second),
        "position": None if outcome.position is None else str(outcome.position),
        "verification": outcome.verification,
    }


def summary(outcome: Outcome, kind: str = "fold", live: str = "esops") -> list[str]:
    """Lines for a person, with what to do next."""
    from esops.term import duration, to_json

    rows = "partitions" if kind == "server" else "rows"

    name, lines = outcome.projection, []
    found = outcome.verification
    if found is not None and found["method"] != "none":
        where = f" at position {found['position']}" if found.get("position") else ""
        lines.append(
            f"verified ({found['method']}{where}): {found['rows_blue']:,} {rows} in blue, "
            f"{found['rows_green']:,} in green, "
            f"{found['differing']:,} differ"
        )
        if found.get("note"):
            lines.append(f"  {found['note']}")
        if found.get("compared"):
            lines.append(f"  a sample: {found['compared']:,} pairs of {rows} were looked at")
        for column, count in found.get("expected", {}).items():
            lines.append(f"  column {column}: {count:,} {rows} differ, as expected")
        for column, count in found.get("columns", {}).items():
            lines.append(f"  column {column}: {count:,} {rows} differ")
        lines += (
            [f"  only in blue: {found['only_blue']:,} {rows}"] if found.get("only_blue") else []
        )
        lines += (
            [f"  only in green: {found['only_green']:,} {rows}"] if found.get("only_green") else []
        )
        lines += [
            f"  for example {to_json(sample)}" for sample in found.get("samples", ())[:_SAMPLES]
        ]
    lines += [f"  assertion failed: {each}" for each in (found or {}).get("failed_assertions", ())]
    did = (
        f"{outcome.events:,} events into {outcome.rows or 0:,} {rows} in "
        f"{duration(outcome.seconds)} "
        f"({outcome.events_per_second:,.0f} events a second)"
    )
    if outcome.state == "switched":
        back = (
            f"\nTo go back: esops projection rollback {name}. When all is well: esops projection "
            f"retire {name}."
            if outcome.from_version
            else ""
        )
        keep = (
            "It runs inside the store."
            if kind == "server"
            else "The application keeps it fresh."
            if kind == "external"
            else "The application keeps it fresh: start its projector."
            if live == "app"
            else "`esops run` takes it over within seconds."
            if outcome.followed
            else "Nobody keeps it fresh now: start `esops run`."
        )
        lines.append(f"{name} serves v{outcome.to_version} now: {did}.\n{keep}{back}")
    elif outcome.findings:
        lines.append(
            f"{name} v{outcome.to_version} differs from what serves; nothing was switched: {did}.\n"
            "Go on with --resume --max-diff N (or P%) if that is what you want, or give it up "
            "with --abort."
        )
    elif outcome.state == "aborted":
        left = (
            "what the application built stays" if kind == "external" else "what it built is dropped"
        )
        lines.append(
            f"rebuild {outcome.rebuild} of {name} is given up; {left}, nothing else was changed."
        )
    elif outcome.state == "rebuilt":
        lines.append(
            f"{name} v{outcome.to_version} is rebuilt in place: {did}.\nNobody keeps it fresh now: "
            "start `esops run`."
        )
    elif outcome.state == "tested":
        left = "and left to the application" if kind == "external" else "and dropped again"
        lines.append(
            f"{name} was built and verified as v{outcome.to_version}, {left} (--test-only): {did}."
        )
    elif outcome.state == "verified":
        lines.append(
            f"{name} v{outcome.to_version} stands by: {did}.\nSwitch with: esops projection switch "
            f"{name} --to {outcome.to_version}"
        )
    else:
        lines.append(f"rebuild {outcome.rebuild} of {name} is {outcome.state}: {did}.")
    return lines
