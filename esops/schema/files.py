"""A directory of JSON Schema files: which file is for which event type, and what they say.

A file names its type by `x-event-type`, else by its own name (`OrderPlaced.json`,
`orders/OrderPlaced.schema.json`). Several files of one type are alternatives (`anyOf`), such as one
for each shape (`x-shape`). A file is a part of others and of no type if it, or a folder above it,
has a name that begins with `_`, or if others refer to it by `$ref` and it has no `x-event-type`.

A `$ref` is resolved within the directory, never from a network.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urldefrag, urljoin

import jsonschema_rs
import orjson

from esops.errors import UsageError
from esops.schema import formats, no_rules
from esops.schema.json_lines import Path as JsonPath
from esops.schema.json_lines import line_of, repeated_name
from esops.schema.references import BadSchemaFile, Links, complain, id_key, keywords, link

EVENT_TYPE, SHAPE = "x-event-type", "x-shape"
PAYLOAD = "x-payload"
"""In a schema file: "binary" or "empty", for events of its type that are no JSON; JSON does not fit
it.
"""
_PAYLOADS = ("binary", "empty")
DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILES = "https://schemas.esops.invalid/"
"""Where the files of a directory stand for `$ref`, since the directory may be anywhere. No name
that ends with .invalid leads anywhere (RFC 2606)."""
_SUFFIXES = (".schema.json", ".json")
_DRAFTS = (
    "json-schema.org/draft/2020-12/schema", "json-schema.org/draft/2019-09/schema",
    "json-schema.org/draft-07/schema", "json-schema.org/draft-06/schema",
    "json-schema.org/draft-04/schema", "json-schema.org/schema",
)  # fmt: skip
"""What `$schema` may say, without `http(s)://`: the validator would fetch what it does not know."""


@dataclass(frozen=True)
class SchemaFile:
    """One file of a directory."""

    where: str
    """How messages name it: the path that was given, and the file's own below it."""
    path: PurePosixPath
    """Below the directory."""
    text: str = field(repr=False)
    schema: dict[str, Any] = field(repr=False)

    @property
    def named_type(self) -> str | None:
        """What `x-event-type` says."""
        found = self.schema.get(EVENT_TYPE)
        return found if isinstance(found, str) else None

    @property
    def type(self) -> str:
        """The event type, if the file is for one."""
        name = self.path.name
        stem = next(name.removesuffix(each) for each in _SUFFIXES if name.endswith(each))
        return self.named_type or stem

    @property
    def shape(self) -> str | None:
        """The hash of the shape that it was inferred from."""
        found = self.schema.get(SHAPE)
        return found if isinstance(found, str) else None

    @property
    def file_uri(self) -> str:
        """Its place in the directory."""
        return FILES + quote(str(self.path))

    @property
    def uri(self) -> str:
        """What a `$ref` in it begins at."""
        own = self.schema.get(id_key(self.schema))
        return urldefrag(urljoin(self.file_uri, own)).url if own else self.file_uri

    @property
    def underscored(self) -> bool:
        """Whether its name, or that of a folder, says that it is for no event type."""
        return any(part.startswith("_") for part in self.path.parts)

    def line(self, path: JsonPath = ()) -> str:
        """How a message names a place in it: file and line."""
        return f"{self.where}:{line_of(self.text, path)}"


@dataclass(frozen=True)
class TypeSchema:
    """What a directory says of one event type."""

    type: str
    files: tuple[SchemaFile, ...]

    @property
    def for_json(self) -> Sequence[SchemaFile]:
        """The files that are for JSON, not for other payloads."""
        return [each for each in self.files if PAYLOAD not in each.schema]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The schema of all its files. Its references need the registry of the set."""
        references = [{"$ref": each.uri} for each in self.for_json]
        if not references:
            return {"$schema": DIALECT, "not": {}}
        rest = references[0] if len(references) == 1 else {"anyOf": references}
        return {"$schema": DIALECT, **rest}

    @property
    def payloads(self) -> frozenset[str]:
        """What its payloads may be: JSON, or what `x-payload` says."""
        return frozenset(str(each.schema.get(PAYLOAD, "JSON")) for each in self.files)


@dataclass(frozen=True)
class SchemaSet:
    """The schemas of a directory, by event type."""

    where: str
    """How messages name it."""
    types: Mapping[str, TypeSchema]
    parts: tuple[SchemaFile, ...]
    """Files that are for no event type."""
    links: Links = field(repr=False)
    written: SchemaSet | None = field(default=None, repr=False)
    """What is written, where that is known better than these schemas say it."""

    @property
    def registry(self) -> jsonschema_rs.Registry:
        """What resolves the references of these schemas."""
        return self.links.registry

    def only(self, types: Collection[str]) -> SchemaSet:
        """The set of some types; of all where none is named."""
        if not types:
            return self
        found = {name: each for name, each in self.types.items() if name in types}
        return replace(self, types=found)

    @cached_property
    def every(self) -> Sequence[SchemaFile]:
        """All files."""
        return [*self.parts, *(file for each in self.types.values() for file in each.files)]

    @cached_property
    def formats(self) -> Mapping[str, Callable[[Any], bool]]:
        """What the validator needs to know of formats: older drafts do not have all."""
        return formats.added(self.every)

    def validator(self, type_: str, file: SchemaFile | None = None) -> jsonschema_rs.Validator:
        """A compiled validator of one type's data, or of one of its files, which checks formats
        too.
        """
        return jsonschema_rs.validator_for(
            self.types[type_].schema if file is None else file.schema,
            registry=self.registry,
            base_uri=None if file is None else file.uri,
            offline=True,
            validate_formats=True,
            formats=dict(self.formats),
        )

    @cached_property
    def remarks(self) -> list[str]:
        """What in the files is no rule, though it looks like one, in sentences."""
        return no_rules.remarks(self.every)

    def part_named(self, type_: str) -> SchemaFile | None:
        """The file that has the name of an event type, and is a part of others instead."""
        found = (each for each in self.parts if each.type == type_ and not each.underscored)
        return next(found, None)

    def referring(self, part: SchemaFile) -> str:
        """A file that refers to a part."""
        path = min(self.links.referred[part.path])
        return next(each.where for each in self.every if each.path == path)

    def texts(self, type_: str) -> list[tuple[str, str]]:
        """The files of a type and all that they refer to: paths and contents."""
        files = self.types[type_].files
        reached = self.links.reached([each.uri for each in files])
        found = [*files, *(self.links.files[uri] for uri in reached)]
        return sorted({str(each.path): each.text for each in found}.items())

    def standalone(self, type_: str) -> dict[str, Any]:
        """The schema of a type with all that it refers to, as one document."""
        found = self.types[type_]
        return self.links.standalone([each.uri for each in found.for_json], found.schema)


def read_schemas(folder: Path, where: str | None = None, *, only_parts: bool = False) -> SchemaSet:
    """Read a directory, which messages name `where`. Raises BadSchemaFile, with file and line, and
    UsageError where the directory is none, or has no schema; with `only_parts`, one that has no
    schema of an event type will do.
    """
    if not folder.is_dir():
        what = "is a file, not a directory" if folder.exists() else "does not exist"
        raise UsageError(
            f"the schema directory {where or folder} {what}",
            hint="Make one with `esops schema infer -o schemas/`, or write a file for each type.",
        )
    return parse_schemas(where or str(folder), dict(_read(folder)), only_parts=only_parts)


def parse_schemas(where: str, texts: Mapping[str, bytes], *, only_parts: bool = False) -> SchemaSet:
    """The schemas of files, given by their paths below `where`, wherever they were read from.
    Raises as `read_schemas` does.
    """
    problems: list[str] = []
    files: list[SchemaFile] = []
    for path, text in sorted(texts.items()):
        try:
            files.append(_parsed(where, path, text))
        except BadSchemaFile as error:
            problems.append(error.message)
    complain(problems)
    if not files:
        raise UsageError(
            f"there is no schema in {where}: no file in it ends with .json",
            hint="Make some with `esops schema infer -o schemas/`, or write a file for each type.",
        )
    links = link(files)
    parts = _parts(files, links)
    apart = {each.path for each in parts}
    types: dict[str, list[SchemaFile]] = {}
    for each in files:
        if each.path not in apart:
            types.setdefault(each.type, []).append(each)
    if not types and not only_parts:
        raise UsageError(
            f"no file in {where} is for an event type: all of them are parts of others",
            hint="A name without `_` at its beginning, or `x-event-type` in the file, makes it so.",
        )
    made = {name: TypeSchema(name, tuple(types[name])) for name in sorted(types)}
    return SchemaSet(where, made, tuple(parts), links)


def _parts(files: Sequence[SchemaFile], links: Links) -> list[SchemaFile]:
    """The files that are for no event type. Raises BadSchemaFile where nothing tells which are."""
    parts = [
        each
        for each in files
        if not each.named_type and (each.underscored or each.path in links.referred)
    ]
    # Those that only refer to each other in a circle: each is a part, and none of a whole.
    rest = {each.path: each for each in parts if not each.underscored}
    while above := {at for at in rest if not all(by in rest for by in links.referred[at])}:
        rest = {at: each for at, each in rest.items() if at not in above}
    if rest:
        first, *others = rest.values()
        raise BadSchemaFile(
            f"{first.where} and {', '.join(each.where for each in others)} refer to each other, "
            "so that nothing tells which of them is for an event type",
            hint="Add `x-event-type` to those that are.",
        )
    return parts


def json_files(folder: Path) -> Iterator[Path]:
    """The files of a directory and of all folders below, linked ones too, that are to be schemas.
    Raises UsageError where a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from None

    seen: set[str] = set()
    for above, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        # A link may lead to a folder above it.
        seen.add(os.path.realpath(above))
        folders[:] = [
            each
            for each in sorted(folders)
            if not each.startswith(".") and os.path.realpath(Path(above, each)) not in seen
        ]
        for name in names:
            if name.endswith(".json") and not name.startswith("."):
                yield Path(above, name)


def _read(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in json_files(folder):
        try:
            yield path.relative_to(folder).as_posix(), path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _parsed(where: str, path: str, content: bytes) -> SchemaFile:
    """Raises BadSchemaFile where a file is no JSON, or no JSON Schema."""
    name = f"{where.rstrip('/')}/{path}"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadSchemaFile(f"{name}:{line}: this is not UTF-8") from None
    try:
        orjson.loads(text)
        value = json.loads(text)
    except json.JSONDecodeError as error:  # orjson's is one too
        raise BadSchemaFile(f"{name}:{error.lineno}: this is not JSON: {error.msg}") from None
    if not isinstance(value, dict):
        raise BadSchemaFile(f"{name}:1: a schema is an object, and this is none")
    file = SchemaFile(name, PurePosixPath(path), text, value)
    twice = repeated_name(text)
    if twice is not None:
        raise BadSchemaFile(f"{name}:{twice[1]}: {twice[0]!r} stands twice in one object")
    for key in (EVENT_TYPE, SHAPE):
        if key in value and not (isinstance(value[key], str) and value[key]):
            raise BadSchemaFile(f"{file.line((key,))}: {key} has to be a text")
    if value.get(PAYLOAD, "binary") not in _PAYLOADS:
        raise BadSchemaFile(f'{file.line((PAYLOAD,))}: {PAYLOAD} is "binary" or "empty"')
    _check_keywords(file)
    return file


def _check_keywords(file: SchemaFile) -> None:
    for path, _, keyword, said in keywords(file.schema, file.uri):
        if keyword == "$schema" and isinstance(said, str):
            draft = said.partition("://")[2].removesuffix("#")
            if draft not in _DRAFTS or not said.startswith(("http://", "https://")):
                raise BadSchemaFile(
                    f"{file.line((*path, keyword))}: $schema {said!r} is no draft of JSON Schema "
                    f"that esops knows, such as {DIALECT}"
                )
    try:
        jsonschema_rs.meta.validate(file.schema)
    except jsonschema_rs.ValidationError as error:
        at = tuple(error.instance_path)
        what = ".".join(map(str, at)) or "the schema"
        raise BadSchemaFile(f"{file.line(at)}: {what}: {error.message}") from None
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        at = ("$schema",) if "$schema" in file.schema else ()
        raise BadSchemaFile(f"{file.line(at)}: {error}") from None
