"""`[contracts.NAME]`: which events other teams may read, and what these events promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from esops.settings.base import Settings


def _without_user(text: str) -> str:
    parts = urlsplit(text)
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", parts.scheme) or not parts.netloc:
        raise ValueError("this is not an address: write it like kafka://broker.example:9092")
    if "@" in parts.netloc:
        raise ValueError(
            "an address in a document that others read must have no user and no password"
        )
    return text.rstrip("/")


def _published(text: str) -> str:
    if "@" in urlsplit(text).netloc or ("://" in text and "?" in text):
        raise ValueError(
            "an address in a document that others read must have no user, no password and no query"
        )
    return text


PublishedName = Annotated[str, Field(min_length=1), AfterValidator(_published)]
ServerAddress = Annotated[str, AfterValidator(_without_user)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
"""Names, or patterns of them: `*` for anything, `?` for one character, all else for itself."""


class OutboxTable(Settings):
    """A table of the application's own that holds messages to be sent, by its columns."""

    table: str
    """`table` or `schema.table`."""
    type: str
    """The column with the type of the message."""
    payload: str | None = None
    """The column with its data as JSON. Default: none, so that only types are looked at."""
    destination: str | None = None
    """The column with where it is sent to, such as a topic. Default: the table's name."""


class ContractSettings(Settings):
    """`[contracts.NAME]`: what is public. Everything that no contract names is private."""

    store: str | None = None
    types: Names | None = None
    """The public types. Default: all, in the places that the contract names."""
    streams: Names | None = None
    categories: Names | None = None
    """Public are only events of these streams, or of these categories. Default: of any stream,
    where the contract names no place at all.
    """
    outbox: Names | None = None
    """Public are messages of these outboxes: destinations, or names of tables. Default: those of
    `outbox_tables`.
    """
    outbox_tables: tuple[OutboxTable, ...] = ()
    """Outboxes that are tables of the application's own."""
    schemas: Path | None = None
    """The directory with the JSON Schema of each public type."""
    consumers: tuple[str, ...] = ()
    """The foreign readers that may read what is public."""
    own: tuple[str, ...] = ()
    """Readers, publications and destinations of the application itself: these may read all."""
    python: str | None = None
    """The function that decodes public events, as `module:function`."""
    encode: str | None = None
    """The function that encodes what `python` returned."""
    command: tuple[str, ...] = ()
    """A program that decodes public events."""
    round_trip: bool = False
    """Whether the program encodes, too."""
    title: str | None = None
    version: str = "1.0.0"
    description: str | None = None
    owner: str | None = None
    """The team that answers for it."""
    server: ServerAddress | None = None
    """Where consumers get the events, for the documents."""
    source: PublishedName | None = None
    """CloudEvents: the `source` of the events. Default: `/NAME`."""
    schema_url: PublishedName | None = None
    """CloudEvents: where the schemas are published; `dataschema` is this and the file's name."""

    @property
    def everywhere(self) -> bool:
        """Whether the contract names no place, so that its types are public wherever they are."""
        return self.streams is None and self.categories is None and not self.outboxes

    @property
    def outboxes(self) -> tuple[str, ...]:
        """The destinations and tables whose messages are public; empty where none is named."""
        return self.outbox or tuple(each.table for each in self.outbox_tables)

    @model_validator(mode="after")
    def _names_one_code(self) -> ContractSettings:
        if self.python is not None and self.command:
            raise ValueError("`python` and `command` both decode the events: name one of them")
        if self.encode is not None and self.python is None:
            raise ValueError("`encode` names a Python function and needs `python`")
        if self.round_trip and not self.command:
            raise ValueError("`round_trip` is for a `command`; name a function in `encode`")
        return self

    @model_validator(mode="after")
    def _names_something(self) -> ContractSettings:
        if self.types is None and self.everywhere:
            raise ValueError(
                "a contract needs `types`, `streams`, `categories` or `outbox`: without them, it "
                "says of no event that it is public"
            )
        return self
