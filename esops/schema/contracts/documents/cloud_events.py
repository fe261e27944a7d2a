"""CloudEvents 1.0: an example of each public type, as a batch in JSON."""

from __future__ import annotations

import uuid
from typing import Any

from esops.schema.contracts.contract import Contract
from esops.schema.contracts.documents.examples import example_of
from esops.schema.contracts.documents.public_types import (
    data_schema,
    public_types,
    source_of,
    subject_of,
)

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
_TIME = "2026-01-31T12:00:00Z"
"""That of all examples: a document must not change with the day on which it is made."""


def cloud_events(contract: Contract) -> list[dict[str, Any]]:
    """The examples, in the batched JSON format (`application/cloudevents-batch+json`).

    Raises UsageError where no example can be made of a schema.
    """
    return [_event(contract, type_) for type_ in public_types(contract)]


def attributes(contract: Contract, type_: str) -> dict[str, Any]:
    """The attributes of an example."""
    source = source_of(contract)
    optional = {
        "subject": subject_of(contract),
        "dataschema": data_schema(contract, type_),
    }
    return {
        "specversion": SPEC_VERSION,
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source} {type_}")),
        "source": source,
        "type": type_,
        "time": _TIME,
        **{key: value for key, value in optional.items() if value is not None},
        "datacontenttype": CONTENT_TYPE,
    }


def _event(contract: Contract, type_: str) -> dict[str, Any]:
    schemas = contract.schemas
    if schemas is None or type_ not in schemas.types:
        return attributes(contract, type_)
    return {**attributes(contract, type_), "data": example_of(schemas, type_)}
