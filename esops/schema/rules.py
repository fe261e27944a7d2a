"""The kinds of change between two schemas of an event type, what each breaks, and what to do.

Backward: readers by the new schema take what was written by the old one. Forward: readers by the
old schema take what is written by the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Direction = Literal["backward", "forward"]
Breaks = Literal["none", "backward", "forward", "both"]
BACKWARD: Direction = "backward"
FORWARD: Direction = "forward"
DIRECTIONS: tuple[Direction, ...] = (BACKWARD, FORWARD)


class ChangeRule(NamedTuple):
    """What one kind of change means."""

    what: str
    breaks: str
    """For the table of the documentation."""
    advice: str
    """What to do where it breaks readers; empty where it cannot."""


_UPCAST = "Write an upcaster for old events"
_TWO_PHASES = "deploy readers that take both first, then writers"
_NEW_TYPE = "or give the new form a type of its own"
_CLOSED = "Remove `additionalProperties: false` from the schema that readers use"

RULES: Mapping[str, ChangeRule] = {
    "type-added": ChangeRule(
        "an event type was added",
        "none; forward with --strict",
        "Deploy readers that know the type, or skip unknown types, before its first writer.",
    ),
    "type-removed": ChangeRule(
        "an event type was removed",
        "backward, since its old events stay in the store",
        "Keep the schema for as long as the store or an archive has events of the type.",
    ),
    "field-added": ChangeRule(
        "an optional field was added",
        "none; forward if the old object is closed; backward with --strict if it is open",
        f"{_CLOSED}, or {_TWO_PHASES}.",
    ),
    "required-field-added": ChangeRule(
        "a required field was added",
        "backward, since old events do not have it; forward too if the old object is closed",
        "Make the field optional with a default, or write an upcaster that fills it in.",
    ),
    "field-removed": ChangeRule(
        "an optional field was removed",
        "none; backward if the new object is closed",
        f"{_CLOSED}, or keep the field as optional: old events have it.",
    ),
    "required-field-removed": ChangeRule(
        "a required field was removed",
        "forward; backward too if the new object is closed",
        f"Make the field optional first, and {_TWO_PHASES}.",
    ),
    "field-required": ChangeRule(
        "an optional field became required",
        "backward",
        "Keep the field optional with a default, or write an upcaster that fills it in.",
    ),
    "field-optional": ChangeRule(
        "a required field became optional",
        "forward",
        f"Let readers take its absence: {_TWO_PHASES}.",
    ),
    "type-widened": ChangeRule(
        "more types are allowed, such as number instead of integer",
        "forward",
        f"Let readers take both types: {_TWO_PHASES}.",
    ),
    "type-narrowed": ChangeRule("fewer types are allowed", "backward", f"{_UPCAST}, {_NEW_TYPE}."),
    "type-changed": ChangeRule(
        "another type is allowed",
        "both",
        f"Add a field of another name beside the old one, {_NEW_TYPE}; {_UPCAST.lower()}.",
    ),
    "null-allowed": ChangeRule(
        "null is allowed now", "forward", f"Let readers take null: {_TWO_PHASES}."
    ),
    "null-refused": ChangeRule(
        "null is no longer allowed",
        "backward",
        "Keep null, or write an upcaster that puts a value there.",
    ),
    "values-added": ChangeRule(
        "more values are allowed (enum, const)",
        "forward",
        f"Let readers take values that they do not know: {_TWO_PHASES}.",
    ),
    "values-removed": ChangeRule(
        "fewer values are allowed (enum, const)",
        "backward",
        "Keep the values that old events have, or map them in an upcaster.",
    ),
    "values-changed": ChangeRule(
        "some values are new and others are gone (enum, const)",
        "both",
        f"Keep the values that old events have, and {_TWO_PHASES}.",
    ),
    "range-widened": ChangeRule(
        "a limit of a number, length or count is wider or gone",
        "forward",
        f"Let readers take what is beyond the old limit: {_TWO_PHASES}.",
    ),
    "range-narrowed": ChangeRule(
        "a limit of a number, length or count is narrower or new",
        "backward",
        "Keep the old limit for events that are written already.",
    ),
    "range-changed": ChangeRule(
        "limits moved to both sides",
        "both",
        f"Keep the old limit for old events, and {_TWO_PHASES}.",
    ),
    "format-added": ChangeRule(
        "a format or pattern is required now",
        "backward",
        f"{_UPCAST} that do not have it, or leave the format out.",
    ),
    "format-removed": ChangeRule(
        "a format or pattern is no longer required",
        "forward",
        f"Let readers take any text: {_TWO_PHASES}.",
    ),
    "format-changed": ChangeRule(
        "another format or pattern is required",
        "both",
        f"Add a field of another name, or {_UPCAST.lower()}.",
    ),
    "closed": ChangeRule(
        "other members are no longer allowed (additionalProperties)",
        "none; backward with --strict, or if the old schema said that they are written",
        "Leave the object open, so that new code can read old events.",
    ),
    "opened": ChangeRule(
        "other members are allowed now (additionalProperties)",
        "none; forward with --strict, or if the new schema says that they are written",
        f"{_CLOSED} first.",
    ),
    "rule-changed": ChangeRule(
        "something else is different: another keyword, or how alternatives go together",
        "what the comparison of the whole schemas says",
        "Compare the two schemas at this place.",
    ),
    "not-judged": ChangeRule(
        "it can be proven neither that the one schema takes what the other does, nor that it does "
        "not",
        "counts as what it may break",
        "Write the schema with simpler keywords, or prove it by `esops schema check` on the "
        "events.",
    ),
    "rename-suspected": ChangeRule(
        "rename suspected: a field was removed, and one with a similar name and the same schema "
        "was added",
        "nothing by itself: see the two changes that it is made of",
        "If it is a rename, write an upcaster that moves the value to the new name.",
    ),
    "move-suspected": ChangeRule(
        "move suspected: a field was removed, and one with the same name and schema was added in "
        "another object",
        "nothing by itself: see the two changes that it is made of",
        "If it was moved, write an upcaster that moves the value.",
    ),
}
