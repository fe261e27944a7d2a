"""What is said of a projection's versions beside their table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esops.rebuild.outcome import rows_of_old_code
from esops.wording import became_dead_letters, count


def with_keeper(versions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The versions for a table, with the application as the follower of what it keeps fresh."""
    return [
        {**each, "followed_by": "the application"}
        if each["state"] == "active"
        and each.get("kept_by") == "application"
        and each["followed_by"] is None
        else {**each}
        for each in versions
    ]


def without_retired(versions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that have tables: the others are history, which `projection versions` shows."""
    return [each for each in versions if each["state"] not in {"retired", "aborted"}]


def under_way(found: Mapping[str, Any]) -> Iterator[str]:
    """What an operator should know of the work on a projection, as `projection show` describes it:
    who paused it, what limits it, and which rebuild waits to be resumed.
    """
    from esops.rebuild.under_way import in_words

    name = found["projection"]
    yield from asked(name, found)
    if found["unfinished"] and (text := in_words(found["unfinished"], name)):
        yield text


def asked(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Who paused the work on a projection, and what limits it."""
    if paused := found["paused"]:
        by = f" by {paused['by']}" if paused["by"] else ""
        since = f"{paused['since']:%Y-%m-%d %H:%M:%S} UTC"
        yield (
            f"{name} is paused{by} since {since}: rebuilds and `esops run` wait, and readers see "
            f"nothing new. Resume with: esops projection resume {name}"
        )
    if found["limits"]:
        yield (
            f"{name} is limited to {limits(found['limits'])}, rebuilds and `esops run`. Lift it "
            f"with: esops projection throttle {name} --off"
        )


def limits(found: Mapping[str, float]) -> str:
    """Limits as the options that set them."""
    from esops.running.throttle import Limits

    return str(Limits().over(found))


def notes(name: str, versions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each thing that an operator should know of a projection's versions."""
    for each in versions:
        gone = each["state"] in {"retired", "aborted"}
        if (dead := each.get("dead_letters")) and not gone:
            yield (
                f"v{each['version']}: {count(dead, 'event')} {became_dead_letters(dead)} "
                f"from its rows; see: esops projection dead-letters {name}"
            )
        for accepted in each.get("accepted_code", ()):
            yield (
                f"v{each['version']}: {rows_of_old_code(accepted['position'])} (--accept-code on "
                f"{accepted['host']}, {accepted['at']:%Y-%m-%d %H:%M} UTC)"
            )
        if other := each.get("other_code"):
            since = f"since {other['at']:%Y-%m-%d %H:%M} UTC"
            start = "all" if other["position"] is None else f"after position {other['position']}"
            yield (
                f"v{each['version']}: events {start} were applied by other code than it was built "
                f"by ({since}, on {other['host']}), so its rows are of both"
            )
        if each.get("detail") and (each.get("mixed_since") or not each.get("ok", True)):
            yield f"v{each['version']}: {each['detail']}"
            if (failure := each.get("failure")) and failure["hint"]:
                yield f"  {failure['hint']}"
