"""What is said of a setting that is wrong: its key, what is expected there, or the nearest key.

Never its value, which may be a secret.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from esops.errors import UsageError, nearest
from esops.settings import (
    ArchiveSettings,
    AuditSettings,
    BudgetSettings,
    ContractSettings,
    EraseSettings,
    NotifySettings,
    OutboxTable,
    PolicySettings,
    ProjectionSettings,
    ReadModelSettings,
    Settings,
    TableSettings,
    TraceSettings,
    VerifySettings,
    VersionSettings,
)


def first_problem(
    error: ValidationError,
    path: Path,
    whole: type[Settings],
    within: tuple[str, ...] = (),
    model: type[Settings] | None = None,
) -> UsageError:
    """The first thing that is wrong, by its key.

    `whole` is the model of the file. `within` is where the checked table stands, and `model` what
    it was checked against, where that is not the whole file.
    """
    # Without the input: a value may be a secret.
    problem = error.errors(include_url=False, include_input=False)[0]
    location = [*within, *(str(part) for part in problem["loc"])]
    if location[:1] == ["stores"] and location[2:3] == ["cold"]:
        del location[2]  # filled in by config.py, and no key of the file
    if problem["type"] == "of_kind":
        location.append(problem["ctx"]["key"])
    key = ".".join(location) or "the file"
    if problem["type"] == "extra_forbidden":
        return UsageError(
            f"{path}: {key}: unknown key",
            hint=nearest(location[-1], _known_beside(location, whole, model)),
        )
    if problem["type"] == "missing":
        return UsageError(f"{path}: {key}: this key is missing")
    said = _EXPECTED.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return UsageError(f"{path}: {key}: {said}")


_EXPECTED = {
    "too_short": "at least one is expected",
    "string_too_short": "a text that is not empty is expected",
    "tuple_type": 'a list of texts is expected, such as ["…"]',
    "string_type": "a text is expected",
    "bool_type": "true or false is expected",
    "bool_parsing": "true or false is expected",
    "int_type": "a whole number is expected",
    "int_parsing": "a whole number is expected",
    "int_from_float": "a whole number is expected",
    "float_type": "a number is expected",
    "float_parsing": "a number is expected",
    "model_type": "a section is expected",
    "model_attributes_type": "a section is expected",
    "mapping_type": "a section is expected",
    "dict_type": "a section is expected",
}
"""What to say of a value of a wrong type, which pydantic says in words of Python."""


_SECTIONS: dict[str, type[Settings]] = {
    "readmodels": ReadModelSettings,
    "projections": ProjectionSettings,
    "archives": ArchiveSettings,
    "erase": EraseSettings,
    "notify": NotifySettings,
    "contracts": ContractSettings,
    "audit": AuditSettings,
    "trace": TraceSettings,
}
_UNNAMED = ("audit", "trace")
"""Sections that exist once, without a name."""


def _known_beside(
    location: list[str], whole: type[Settings], model: type[Settings] | None
) -> list[str]:
    """The keys that are known in the section of an unknown one."""
    if len(location) == 1:
        return keys_of(whole)
    section = model or _SECTIONS[location[0]]
    if location[0] in _UNNAMED:
        return keys_of(BudgetSettings if len(location) > 2 else section)
    if len(location) > 3:
        nested: dict[str, type[Settings]] = {
            "verify": VerifySettings,
            "versions": VersionSettings,
            "table": TableSettings,
            "policies": PolicySettings,
            "outbox_tables": OutboxTable,
        }
        section = nested.get(location[2], section)
    return keys_of(section)


def keys_of(section: type[Settings]) -> list[str]:
    """The keys that a section may have in the file."""
    return [
        field.alias or name for name, field in section.model_fields.items() if not field.exclude
    ]
