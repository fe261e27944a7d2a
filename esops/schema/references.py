"""Where a `$ref` in a directory of JSON Schema files leads: to another file, never to a network."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urldefrag, urljoin

import jsonschema_rs

from esops.errors import UsageError
from esops.schema.json_lines import Path

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from esops.schema.files import SchemaFile

NAMES = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
"""Keywords whose members' names are names, not keywords."""
DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are data: a `$ref` in there is none."""
_DRAFT_4 = "draft-04"
_DIALECTS = ("https://json-schema.org/", "http://json-schema.org/")


class BadSchemaFile(UsageError):
    """A schema file cannot be used."""


class Reference(NamedTuple):
    """A `$ref` of a file."""

    path: Path
    """Where it stands in the file."""
    base: str
    text: str

    @property
    def document(self) -> str:
        """The URI of the document that it leads to."""
        return urldefrag(urljoin(self.base, self.text)).url


@dataclass(frozen=True)
class Links:
    """Where the references of some files lead."""

    documents: Mapping[str, dict[str, Any]]
    """Schemas of files by each URI that leads to them."""
    files: Mapping[str, SchemaFile]
    """The files by the same URIs."""
    inside: Mapping[str, str]
    """By the URI of a schema that has an `$id` of its own inside of a file: that of the file."""
    registry: jsonschema_rs.Registry
    referred: Mapping[PurePosixPath, Collection[PurePosixPath]]
    """Files that others refer to, with those."""

    def reached(self, uris: Sequence[str]) -> list[str]:
        """Some documents, and all that they refer to."""
        reached = list(uris)
        for uri in reached:
            for each in references(self.documents[uri], uri):
                document = self.inside.get(each.document, each.document)
                if document in self.documents and document not in reached:
                    reached.append(document)
        return reached

    def standalone(self, uris: Sequence[str], schema: dict[str, Any]) -> dict[str, Any]:
        """A schema that refers to documents, with those and all that they refer to in it."""
        reached = self.reached(uris)
        # jsonschema_rs.bundle follows a pointer in a reference twice, and leads to nothing then.
        return {**schema, "$defs": {uri: {**self.documents[uri], "$id": uri} for uri in reached}}


def link(files: Sequence[SchemaFile]) -> Links:
    """Follow the references of files. Raises BadSchemaFile where one leads to nothing."""
    by_uri = _by_uri(files)
    found = [(file, each) for file in files for each in references(file.schema, file.uri)]
    inside = {
        uri: each.uri
        for each in files
        for uri in _own_ids(each.schema, each.uri)
        if uri not in by_uri
    }
    known = {*by_uri, *inside}
    complain(
        [
            f"{_what(file, each)} to no file of the directory"
            for file, each in found
            if each.document not in known and not each.document.startswith(_DIALECTS)
        ]
    )
    try:
        registry = jsonschema_rs.Registry([(uri, each.schema) for uri, each in by_uri.items()])
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise BadSchemaFile(f"the references of the files cannot be followed: {error}") from None
    problems = []
    referred: dict[PurePosixPath, set[PurePosixPath]] = {}
    for file, each in found:
        try:
            registry.resolver(each.base).lookup(each.text)
        except (jsonschema_rs.ReferencingError, ValueError) as error:
            problems.append(f"{_what(file, each)} to nothing: {error}")
        target = by_uri.get(each.document)
        if target is not None and target is not file:
            referred.setdefault(target.path, set()).add(file.path)
    problems.extend(problem for each in files for problem in _uncompiled(each, registry))
    complain(problems)
    documents = {uri: each.schema for uri, each in by_uri.items()}
    return Links(documents, by_uri, inside, registry, referred)


def _uncompiled(file: SchemaFile, registry: jsonschema_rs.Registry) -> Iterator[str]:
    """What is wrong with a file beside its references, such as a pattern."""
    try:
        jsonschema_rs.validator_for(
            file.schema, registry=registry, base_uri=file.uri, offline=True, validate_formats=True
        )
    except jsonschema_rs.ValidationError as error:
        at = tuple(error.instance_path)
        what = f"{at[-1]}: " if at else ""
        yield f"{file.line(at)}: {what}{error.message}"
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        yield f"{file.line()}: {error}"


def _what(file: SchemaFile, reference: Reference) -> str:
    return f"{file.line(reference.path)}: $ref {reference.text!r} leads"


def complain(problems: Sequence[str]) -> None:
    """Raise BadSchemaFile if there are problems, and say each of the first."""
    if problems:
        others = f" Others: {'; '.join(problems[1:6])}." if problems[1:] else ""
        raise BadSchemaFile(problems[0], hint=f"Correct the file.{others}")


def _by_uri(files: Sequence[SchemaFile]) -> dict[str, SchemaFile]:
    by_uri: dict[str, SchemaFile] = {}
    for each in files:
        for uri in (each.file_uri, each.uri):
            if by_uri.setdefault(uri, each) is not each:
                raise BadSchemaFile(
                    f"{each.line(('$id',))}: {by_uri[uri].where} has the same $id",
                    hint="Give each schema file an $id of its own, or none.",
                )
    # A file with an $id of its own means its neighbours by relative references all the same.
    own_places = {
        (urljoin(each.uri, "."), posixpath.dirname(str(each.path)))
        for each in files
        if each.uri != each.file_uri
    }
    for base, folder in own_places:
        for each in files:
            relative = posixpath.relpath(str(each.path), folder or ".")
            by_uri.setdefault(urljoin(base, relative), each)
    return by_uri


def references(schema: Any, base: str, path: Path = ()) -> Iterator[Reference]:
    """Each `$ref` in a schema, whose URI is `base`."""
    for at, place, member, value in keywords(schema, base, path):
        if member in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
            yield Reference((*at, member), place, value)


def _own_ids(schema: Any, base: str) -> Iterator[str]:
    key = id_key(schema)
    for _, place, member, value in keywords(schema, base):
        if member == key and isinstance(value, str):
            yield urldefrag(place).url


def id_key(schema: Any) -> str:
    """The keyword that gives a schema its own URI."""
    return "id" if isinstance(schema, dict) and _DRAFT_4 in str(schema.get("$schema")) else "$id"


def keywords(
    schema: Any, base: str, path: Path = (), key: str | None = None
) -> Iterator[tuple[Path, str, str, Any]]:
    """The keywords of a schema and of all in it: where, the base of references there, and both."""
    key = key or id_key(schema)
    if isinstance(schema, list):
        for number, each in enumerate(schema):
            yield from keywords(each, base, (*path, number), key)
    if not isinstance(schema, dict):
        return
    own = schema.get(key)
    base = urljoin(base, own) if isinstance(own, str) else base
    for keyword, value in schema.items():
        yield path, base, keyword, value
        if keyword in NAMES and isinstance(value, dict):
            for name, each in value.items():
                yield from keywords(each, base, (*path, keyword, name), key)
        elif keyword not in DATA:
            yield from keywords(value, base, (*path, keyword), key)
