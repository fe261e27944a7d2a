"""A document as text that lives in git, and how it differs from the one that is there."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from esops.config import Config
from esops.errors import UsageError
from esops.schema.contracts.contract import contract_of
from esops.schema.contracts.documents.async_api import async_api
from esops.schema.contracts.documents.cloud_events import cloud_events
from esops.schema.contracts.documents.public_types import public_types
from esops.schema.contracts.name_patterns import NamePatterns

DocumentForm = Literal["asyncapi", "cloudevents"]


class ContractDocument(NamedTuple):
    """A document, and the types of which it says nothing but their names."""

    text: str
    undescribed: list[str]
    patterns: dict[str, list[str]]
    """What the patterns among its types stand for, as nobody asks a store which types there are."""


def document(config: Config, name: str, form: DocumentForm) -> ContractDocument:
    """A document about a contract, as JSON that is the same at every run. Raises UsageError."""
    contract = contract_of(config, name)
    made: Any
    if form == "cloudevents":
        made = cloud_events(contract)
    else:
        _, store = config.store(contract.settings.store)
        made = async_api(contract, server_streams=store.backend == "eventstoredb")
    schemas = {} if contract.schemas is None else contract.schemas.types
    types = public_types(contract)
    undescribed = [each for each in types if each not in schemas]
    patterns = {
        each: list(filter(NamePatterns([each]).match, types))
        for each in contract.type_patterns
        if each not in contract.exact_types
    }
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    return ContractDocument(text, undescribed, patterns)


def difference(text: str, file: Path) -> list[str]:
    """How a file differs from what it should say, as lines of a diff; empty where it does not.

    Raises UsageError where the file cannot be read.
    """
    try:
        there = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}",
            hint="Write it first: the same command with `-o FILE` in place of `--check FILE`.",
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8") from None
    lines = difflib.unified_diff(
        there.splitlines(), text.splitlines(), str(file), "now", lineterm="", n=2
    )
    return list(lines)
