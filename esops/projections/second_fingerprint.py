"""The graph of code as esops hashed it in its second way: only to recognise the versions that have
such a fingerprint.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from esops.projections.code_origin import Origins
from esops.projections.code_source import (
    SEES_ALL,
    Chain,
    Source,
    code_text,
    digest,
    imported_as,
    names_in,
    source_of,
    uses,
)
from esops.projections.object_values import content, filled, reduced, state
from esops.projections.plain_values import plain

_CONTAINERS = (list, tuple, dict, set, frozenset, MappingProxyType)
_SLOTS = (MemberDescriptorType, GetSetDescriptorType, WrapperDescriptorType)
_CODE = (
    FunctionType,
    MethodType,
    type,
    functools.partial,
    functools.partialmethod,
    functools.cached_property,
    staticmethod,
    classmethod,
    property,
    *_CONTAINERS,
)


@dataclass
class _Node:
    """What a node is, and the nodes that it names, each with how."""

    label: bytes = b""
    parts: list[tuple[bytes | int, ...]] = field(default_factory=list)
    ordered: bool = True


class SecondGraph:
    """The functions, classes and values that are reached from some code of a project."""

    def __init__(self, home: str, directory: Path) -> None:
        """`home` is a module of the project, and `directory` its folder."""
        self._origins = Origins(home)
        self._directory = directory
        self._index: dict[Hashable, int] = {}
        self._nodes: list[_Node] = []
        self._waiting: list[tuple[int, Any]] = []
        self._kept: list[Any] = []  # as long as it lives, nothing else has its id

    def add(self, value: object) -> int | bytes:
        """Add a value with all that it refers to: a node's number, or a plain value as bytes."""
        leaf = plain(value)
        if leaf is not None:
            return leaf
        return self._add(id(value), value)

    def add_name(self, module: str, name: str) -> int | bytes | None:
        """Add what a module's name stands for, and the statements that make it."""
        found = sys.modules.get(module)
        if found is None or not hasattr(found, name):
            return None
        return self._named(vars(found), name, getattr(found, name))

    def hash(self) -> bytes:
        """The hash of all that was added."""
        while self._waiting:
            at, value = self._waiting.pop()
            try:
                self._nodes[at] = self._described(value)
            except Exception:  # noqa: BLE001 - a proxy may not let itself be looked at
                self._nodes[at] = _Node(f"opaque {type(value).__qualname__}".encode())
        hashes = [digest(each.label) for each in self._nodes]
        distinct = 0
        while len(set(hashes)) > distinct:
            distinct = len(set(hashes))
            hashes = [_hash(each, hashes) for each in self._nodes]
        return digest(*sorted(set(hashes)))

    def _add(self, key: Hashable, value: object) -> int:
        at = self._index.get(key)
        if at is None:
            at = self._index[key] = len(self._nodes)
            self._nodes.append(_Node())
            self._kept.append(value)
            self._waiting.append((at, value))
        return at

    # -- what each thing is

    def _described(self, value: Any) -> _Node:
        match value:
            case _Name():
                return self._binding(value)
            case _WholeModule():
                return self._module(value.module)
            case FunctionType():
                return self._function(value)
            case type():
                return self._class(value)
            case MethodType():
                return self._node(b"method", (value.__func__, value.__self__))
            case functools.partial() | functools.partialmethod():
                return self._node(b"partial", (value.func, value.args, value.keywords))
            case staticmethod() | classmethod():
                return self._node(type(value).__name__.encode(), (value.__func__,))
            case property():
                return self._node(b"property", (value.fget, value.fset, value.fdel))
            case functools.cached_property():
                return self._node(b"cached_property", (value.func,))
            case ModuleType():
                return self._module(value)
            case BuiltinFunctionType():
                return self._builtin(value)
            case _:
                return self._container_or_instance(value)

    def _node(self, label: bytes, values: Iterable[object]) -> _Node:
        return _Node(label, [(self.add(each),) for each in values])

    def _builtin(self, value: Any) -> _Node:
        of = value.__self__
        name = f"{value.__module__}.{value.__qualname__}".encode()
        # A method of a value, such as the `get` of a dictionary, is of that value.
        return self._node(name, () if of is None or isinstance(of, ModuleType) else (of,))

    def _container_or_instance(self, value: Any) -> _Node:
        kind = type(value)
        if kind in {dict, MappingProxyType}:
            pairs = [(self.add(key), self.add(each)) for key, each in value.items()]
            return _Node(b"dict", list(pairs), ordered=False)
        if kind in _CONTAINERS:
            node = self._node(kind.__name__.encode(), value)
            node.ordered = kind in {list, tuple}
            return node
        return self._instance(value)

    def _function(self, value: FunctionType) -> _Node:
        foreign = self._origins.foreign(str(value.__globals__.get("__name__", "")))
        parts: list[tuple[bytes | int, ...]] = []
        attributes = sorted(vars(value).items())
        if foreign is not None:
            # A decorator of another package: what it wraps is the project's.
            inner = [cell.cell_contents for cell in value.__closure__ or () if filled(cell)]
            inner += [each for _, each in attributes]
            parts = [(self.add(each),) for each in inner if self._has_code(each)]
            return _Node(f"{foreign} {value.__qualname__}".encode(), parts)
        source = source_of(value.__code__.co_filename, value.__globals__)
        found = source.function(value.__code__) if source is not None else []
        if source is not None and found:
            label = b"".join(source.text(each, as_second=True).encode() for each in found)
            for each in found:
                for decorator in getattr(each, "decorator_list", ()):
                    parts += self._names(value.__globals__, names_in(decorator))
        else:
            label = code_text(value.__code__)
        parts.append((b"defaults", self.add(value.__defaults__), self.add(value.__kwdefaults__)))
        parts += [(name.encode(), self.add(each)) for name, each in attributes]
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if filled(cell):
                parts.append((name.encode(), self.add(cell.cell_contents)))
        used = uses(value.__code__, as_second=True)
        parts += self._names(value.__globals__, used.names)
        for level, module, names in sorted(used.imports):
            parts += self._imported(value.__globals__, level, module, names)
        if any(name[0] in SEES_ALL and name[0] not in value.__globals__ for name in used.names):
            parts.append((b"module", self._whole(value.__globals__)))
        return _Node(label, parts)

    def _class(self, value: type) -> _Node:
        foreign = self._origins.foreign(value.__module__)
        if foreign is not None:
            return _Node(f"{foreign} {value.__qualname__}".encode())
        module = vars(sys.modules[value.__module__]) if value.__module__ in sys.modules else {}
        source = source_of(module.get("__file__"), module)
        found = source.classes.get(value.__qualname__, []) if source is not None else []
        label = value.__name__ + "".join(
            source.text(each, as_second=True) for each in found if source is not None
        )
        parts: list[tuple[bytes | int, ...]] = [
            (b"base", self.add(each)) for each in value.__bases__ if each is not object
        ]
        parts.append((b"type", self.add(type(value))))
        for each in found:
            parts += self._names(module, names_in(each, with_functions=False))
        for name, member in sorted(vars(value).items()):
            if self._counts(value, name, member, in_source=bool(found)):
                parts.append((name.encode(), self.add(member)))
        fields = vars(value).get("__dataclass_fields__", {})
        for name, each in fields.items():
            values = (each.type, each.default, each.default_factory)
            parts.append((name.encode(), *(self.add(one) for one in values)))
        return _Node(label.encode(), parts)

    def _counts(self, of: type, name: str, member: object, *, in_source: bool) -> bool:
        """Whether a class's member is code or a constant of the project."""
        function = getattr(member, "__func__", member)
        if isinstance(member, _SLOTS) or name == "_abc_impl":
            return False
        if isinstance(function, FunctionType):
            # What `dataclass` and the like generate follows from what the class says.
            generated = function.__code__.co_filename.startswith("<")
            module = str(function.__globals__.get("__name__", ""))
            inherited = name.startswith("_") and self._origins.foreign(module) is not None
            in_source = in_source or bool({"_fields", "__dataclass_fields__"} & set(vars(of)))
            return not inherited and not (in_source and generated)
        inner = name.startswith("__") or (issubclass(of, Enum) and name.startswith("_"))
        return not inner or isinstance(member, property)

    def _instance(self, value: Any) -> _Node:
        kind = type(value)
        foreign = self._origins.foreign(kind.__module__)
        parts: list[tuple[bytes | int, ...]] = [(self.add(kind),)]
        wrapped = getattr(value, "__wrapped__", None)
        if issubclass(kind, Enum):
            return _Node(b"member", [*parts, (self.add(value.name), self.add(value.value))])
        if isinstance(value, PurePath):
            near = value.is_relative_to(self._directory)
            place = value.relative_to(self._directory) if near else value
            return _Node(b"path", [*parts, (self.add(str(place)),)])
        if wrapped is not None and isinstance(wrapped, _CODE):
            return _Node(b"wrapper", [*parts, (self.add(wrapped),)])
        own = state(value)
        if foreign is None:
            parts += [(self.add(each),) for each in content(value)]
            parts += [(name.encode(), self.add(each)) for name, each in sorted(own.items())]
        elif foreign in sys.stdlib_module_names | {"esops"}:
            parts += [(self.add(each),) for each in reduced(value)]
        else:
            # What such an object holds differs from process to process. How the project makes it
            # is seen where it is made.
            inner = [each for _, each in sorted(own.items()) if self._has_code(each)]
            parts += [(self.add(each),) for each in inner]
        return _Node(b"instance", parts)

    def _has_code(self, value: object) -> bool:
        return isinstance(value, _CODE) or hasattr(value, "__wrapped__")

    def _module(self, module: ModuleType) -> _Node:
        """A module that is used as a whole: all that is in it."""
        foreign = self._origins.foreign(module.__name__)
        if foreign is not None:
            return _Node(foreign.encode())
        source = source_of(getattr(module, "__file__", None), vars(module))
        label = "" if source is None else source.text(source.tree, as_second=True)
        names = {(name,) for name in vars(module) if not name.startswith("__")}
        return _Node(label.encode(), self._names(vars(module), names))

    def _whole(self, globals_: Mapping[str, Any]) -> int | bytes:
        module = sys.modules.get(str(globals_.get("__name__")))
        if module is None:
            return b"no module"
        return self._add(("module", module.__name__), _WholeModule(module))

    # -- what names stand for

    def _names(
        self, globals_: Mapping[str, Any], names: Iterable[Chain]
    ) -> list[tuple[bytes | int, ...]]:
        """What names of a module stand for; those of Python itself are no part of the project."""
        return [
            (".".join(chain).encode(), self._resolved(globals_, chain))
            for chain in sorted(names)
            if chain[0] in globals_ and not chain[0].startswith("__")
        ]

    def _resolved(self, globals_: Mapping[str, Any], chain: Chain) -> int | bytes:
        value, rest = globals_[chain[0]], chain[1:]
        name, of = chain[0], globals_
        while isinstance(value, ModuleType):
            foreign = self._origins.foreign(value.__name__)
            if foreign is not None:
                return foreign.encode()
            if not rest or not hasattr(value, rest[0]):
                return self._whole(vars(value))
            of, name, rest = vars(value), rest[0], rest[1:]
            value = getattr(value, name)
        return self._named(of, name, value)

    def _imported(
        self, globals_: Mapping[str, Any], level: int, module: str, names: tuple[str, ...]
    ) -> list[tuple[bytes | int, ...]]:
        """What a function imports while it runs."""
        package = str(globals_.get("__package__") or "")
        full = importlib.util.resolve_name("." * level + module, package) if level else module
        foreign = self._origins.foreign(full)
        if foreign is not None:
            return [(full.encode(), foreign.encode())]
        try:
            found = importlib.import_module(full)
        except Exception as error:  # noqa: BLE001 - code of the user's, which may do without it
            return [(full.encode(), type(error).__name__.encode())]
        if not names or "*" in names:
            return [(full.encode(), self._whole(vars(found)))]
        return self._names(vars(found), {(name,) for name in names})

    def _named(self, globals_: Mapping[str, Any], name: str, value: object) -> int | bytes:
        """A name's value; where that is no function, class or simple value, its making as well."""
        if isinstance(value, str | bytes | int | float | None):
            leaf = plain(value)
            if leaf is not None:
                return leaf
        module = globals_.get("__name__")
        here = getattr(value, "__module__", "") == module and getattr(value, "__name__", "") == name
        # One that is not defined under this name is made by a statement, such as a named tuple.
        if isinstance(value, ModuleType) or (here and isinstance(value, FunctionType | type)):
            return self.add(value)
        key = ("name", str(module), name)
        return self._add(key, _Name(globals_, name, value))

    def _binding(self, found: _Name) -> _Node:
        parts: list[tuple[bytes | int, ...]] = [(self.add(found.value),)]
        source = source_of(found.globals_.get("__file__"), found.globals_)
        foreign = self._origins.foreign(str(found.globals_.get("__name__")))
        if source is None or foreign is not None:
            return _Node(b"value", parts)
        statements = source.binding(found.name)
        label = "".join(source.text(each, as_second=True) for each in statements)
        for each in statements:
            parts += self._names(found.globals_, names_in(each) - {(found.name,)})
        if not statements:
            parts += self._from_its_module(source, found)
        return _Node(b"value" + label.encode(), parts)

    def _from_its_module(self, source: Source, found: _Name) -> list[tuple[bytes | int, ...]]:
        """The name in the module from which it is imported."""
        package = str(found.globals_.get("__package__") or "")
        for level, module, name in imported_as(source, found.name):
            full = importlib.util.resolve_name("." * level + module, package) if level else module
            there = sys.modules.get(full)
            if there is not None and getattr(there, name, None) is found.value:
                return [(b"from", self._named(vars(there), name, found.value))]
        return []


@dataclass(eq=False)
class _Name:
    """A name of a module, with what it stands for."""

    globals_: Mapping[str, Any]
    name: str
    value: Any


@dataclass(eq=False)
class _WholeModule:
    module: ModuleType


def _hash(node: _Node, hashes: list[bytes]) -> bytes:
    parts = [
        digest(*(hashes[each] if isinstance(each, int) else each for each in part))
        for part in node.parts
    ]
    return digest(node.label, *(parts if node.ordered else sorted(parts)))
