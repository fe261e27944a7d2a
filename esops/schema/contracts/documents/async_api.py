"""AsyncAPI 3.0: the channels, operations and messages of a contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from esops.schema.contracts.contract import Contract
from esops.schema.contracts.documents.cloud_events import CONTENT_TYPE, SPEC_VERSION, attributes
from esops.schema.contracts.documents.draft07 import ComponentSchemas
from esops.schema.contracts.documents.examples import example_of
from esops.schema.contracts.documents.public_types import (
    DocumentKeys,
    data_schema,
    public_types,
    source_of,
)
from esops.schema.contracts.outboxes import without_user

_SIGN = re.compile(r"[*?]")


class _Channel(NamedTuple):
    name: str
    address: str | None
    description: str


def async_api(contract: Contract, *, server_streams: bool = False) -> dict[str, Any]:
    """The document. `server_streams`: the store keeps a stream of each category, `$ce-NAME`.

    Raises UsageError where a schema cannot be written into it.
    """
    settings = contract.settings
    types = public_types(contract)
    messages = DocumentKeys(types)
    components = None if contract.schemas is None else ComponentSchemas(contract.schemas, types)
    described = {
        messages.of(type_): _message(contract, type_, components) for type_ in sorted(types)
    }
    keys = DocumentKeys()
    channels, operations = {}, {}
    for channel in _channels(contract, server_streams=server_streams):
        key = keys.of(channel.name)
        channels[key] = _channel(channel, list(described))
        operations[f"send.{key}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/{each}"} for each in described],
        }
    made = {} if components is None else components.made()
    return {
        "asyncapi": "3.0.0",
        "info": _info(contract),
        **({} if settings.server is None else {"servers": {"default": _server(settings.server)}}),
        "defaultContentType": CONTENT_TYPE,
        "channels": channels,
        "operations": operations,
        "components": {"messages": described, **({"schemas": made} if made else {})},
    }


def _info(contract: Contract) -> dict[str, Any]:
    settings = contract.settings
    found: dict[str, Any] = {
        "title": settings.title or contract.name,
        "version": settings.version,
    }
    if settings.description is not None:
        found["description"] = settings.description
    if settings.owner is not None:
        found["contact"] = {"name": settings.owner}
    return found


def _server(address: str) -> dict[str, str]:
    parts = urlsplit(address)
    path = {"pathname": parts.path} if parts.path else {}
    return {"host": parts.netloc, "protocol": parts.scheme, **path}


def _channels(contract: Contract, *, server_streams: bool) -> Iterator[_Channel]:
    settings = contract.settings
    for each in settings.categories or ():
        address = f"$ce-{each}" if server_streams else each
        yield _Channel(f"category.{each}", address, f"Events of category {each}.")
    for each in settings.streams or ():
        yield _Channel(f"stream.{each}", each, f"Events of stream {each}.")
    for each in map(without_user, settings.outboxes):
        yield _Channel(f"outbox.{each}", each, f"Messages that are sent to {each}.")
    if settings.everywhere:
        yield _Channel(contract.name, None, "Events of these types, in whichever stream they are.")


def _channel(channel: _Channel, messages: list[str]) -> dict[str, Any]:
    names: list[str] = []

    def parameter(_: re.Match[str]) -> str:
        names.append(f"part{len(names) + 1}")
        return f"{{{names[-1]}}}"

    address = None if channel.address is None else _SIGN.sub(parameter, channel.address)
    parameters = {name: {"description": "The rest of the name."} for name in names}
    return {
        "address": address,
        "description": channel.description,
        "messages": {each: {"$ref": f"#/components/messages/{each}"} for each in messages},
        **({"parameters": parameters} if parameters else {}),
    }


def _message(contract: Contract, type_: str, components: ComponentSchemas | None) -> dict[str, Any]:
    schemas = contract.schemas
    made: dict[str, Any] = {"name": type_, "title": type_, "contentType": CONTENT_TYPE}
    known = schemas is not None and type_ in schemas.types
    if schemas is not None and known:
        first = schemas.types[type_].files[0].schema
        for key, of in (("title", "title"), ("description", "description")):
            if isinstance(first.get(of), str):
                made[key] = first[of]
    made["headers"] = _headers(contract, type_)
    example: dict[str, Any] = {"headers": attributes(contract, type_)}
    if components is not None and schemas is not None and known:
        made["payload"] = components.reference(type_)
        example["payload"] = example_of(schemas, type_)
    made["examples"] = [example]
    return made


def _headers(contract: Contract, type_: str) -> dict[str, Any]:
    """The attributes of CloudEvents. How they travel is a matter of the protocol."""
    where = data_schema(contract, type_)
    properties: dict[str, Any] = {
        "specversion": {"type": "string", "const": SPEC_VERSION},
        "id": {"type": "string", "description": "The id of the event: the same when sent again."},
        "source": {"type": "string", "const": source_of(contract)},
        "type": {"type": "string", "const": type_},
        "time": {"type": "string", "format": "date-time"},
        "subject": {"type": "string", "description": "The stream of the event."},
        "datacontenttype": {"type": "string", "const": CONTENT_TYPE},
    }
    if where is not None:
        properties["dataschema"] = {"type": "string", "const": where}
    return {
        "type": "object",
        "description": "Attributes of CloudEvents 1.0.",
        "required": ["specversion", "id", "source", "type"],
        "properties": properties,
    }
