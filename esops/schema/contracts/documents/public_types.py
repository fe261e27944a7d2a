"""The public types of a contract as its documents name them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from esops.errors import UsageError
from esops.schema.contracts.contract import Contract
from esops.schema.contracts.outboxes import without_user

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9._-]+")


def public_types(contract: Contract) -> list[str]:
    """The types that a contract names one by one, and those of its schemas that it means.

    Raises UsageError where there is none.
    """
    schemas = contract.schemas
    described = () if schemas is None else filter(contract.names_type, schemas.types)
    found = sorted({*contract.exact_types, *described})
    if not found:
        raise UsageError(
            f"contract {contract.name} names no type that could be described",
            hint="Name types in `types` without `*`, or give each a file in `schemas`.",
        )
    return found


def source_of(contract: Contract) -> str:
    """The `source` of its events as CloudEvents."""
    return contract.settings.source or f"/{contract.name}"


def data_schema(contract: Contract, type_: str) -> str | None:
    """Where the schema of a type is published; None where that is not known."""
    schemas = contract.schemas
    if schemas is None or type_ not in schemas.types:
        return None
    files = schemas.types[type_].files
    own = files[0].schema.get("$id")
    if len(files) > 1:
        return None  # no one document says it
    if isinstance(own, str) and "://" in own:
        return without_user(own)
    base = contract.settings.schema_url
    return f"{base.rstrip('/')}/{files[0].path}" if base is not None else None


def subject_of(contract: Contract) -> str | None:
    """A stream that an event could be of; None where nothing tells how streams are named."""
    settings = contract.settings
    if settings.categories is not None:
        return settings.categories[0].replace("*", "example").replace("?", "x") + "-1"
    if settings.streams is not None:
        return settings.streams[0].replace("*", "1").replace("?", "1")
    return None


class DocumentKeys:
    """Names as keys of a document, which has a small alphabet for them; each is used once."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """`names` get theirs first, and those before others that can be keys as they are."""
        self._of: dict[str, str] = {}
        for each in sorted(names, key=lambda name: (_NOT_IN_KEYS.search(name) is not None, name)):
            self.of(each)

    def of(self, name: str) -> str:
        """The key of a name."""
        key = self._of.get(name)
        if key is None:
            plain = key = _NOT_IN_KEYS.sub("_", name) or "_"
            number = 2
            while key in self._of.values():
                key, number = f"{plain}_{number}", number + 1
            self._of[name] = key
        return key
