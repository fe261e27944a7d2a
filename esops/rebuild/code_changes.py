"""Which part of a projection's code and settings is another than a version was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esops.rebuild.made_of import OF_ROWS
from esops.rebuild.target import Target

_NAMED = 5


def where(target: Target) -> str:
    """What esops.toml names as the code."""
    settings = target.settings
    return settings.python or str(settings.statement or " ".join(settings.command))


def differing_code(
    kept: Mapping[str, Any] | None, now: Mapping[str, Any], where: str
) -> dict[str, str]:
    """Which part of the code, the filter and the files is another, where the fingerprint is."""
    if kept is None:
        return {"function": "the code or its filter; an older esops did not keep which"}
    found = {}
    if kept["function"] != now["function"]:
        names = [
            each
            for each in sorted({*kept["names"], *now["names"]})
            if kept["names"].get(each) != now["names"].get(each)
        ]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        found["function"] = (", ".join(names[:_NAMED]) + more) or where
    for part in ("key", "events", "files"):
        if kept.get(part) != now[part]:
            found[part] = of_setting(kept.get(part), now[part])
    # A value that the code has, and no text of it.
    return found or {"function": f"a value that {where} uses"}


def of_setting(before: object, now: object) -> str:
    """What it is now and what it was, of several only those that differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        return "; ".join(
            f"{key}: {_word(before.get(key))} -> {_word(now.get(key))}" for key in keys
        )
    return f"{_word(before)} -> {_word(now)}"


def _word(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def with_resumed(kept: Mapping[str, Any], later: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What was kept, with the settings of how it is served as they were when it last continued."""
    settings = dict(kept["settings"])
    for each in later:
        settings |= {key: value for key, value in each.items() if key not in OF_ROWS}
    return {**kept, "settings": settings}


def as_with_today(settings: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that rows were made with, as they are to be compared with those of today.

    Whoever stopped at no event would have skipped none, so rows of "stop" are those of
    "dead-letter", too. The other way round, events may be missing.
    """
    skips = {"on_error": "dead-letter"} if now["on_error"] == "dead-letter" else {}
    return {**settings, **skips}


def of_mixed(settings: Mapping[str, Any], later: Sequence[Mapping[str, Any]]) -> str:
    """Settings with which only a part of the rows was made, in words; nothing where all were."""
    other = {key: each[key] for each in later for key in OF_ROWS if each[key] != settings[key]}
    return "; ".join(
        f"{key}: a part of its rows was made with {_word(settings[key])}, and a part with "
        f"{_word(value)}"
        for key, value in other.items()
    )
