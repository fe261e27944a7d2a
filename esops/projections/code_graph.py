"""What a function's results depend on: other functions, classes and constants, as a graph."""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
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

from esops.projections.code_effects import (
    decorated_by,
    effects,
    from_stars,
    full_name,
    imports,
    registered,
)
from esops.projections.code_nodes import CodeNode, Graph, Hashes, Part, leaf, part_of
from esops.projections.code_origin import Origins
from esops.projections.code_source import (
    Chain,
    Source,
    code_text,
    imported_as,
    names_in,
    sees_all,
    source_of,
    uses,
)
from esops.projections.object_values import attempt, attributes, content, filled, reduced

_OF_PYTHON = {
    "__annotations__",
    "__builtins__",
    "__cached__",
    "__doc__",
    "__file__",
    "__loader__",
    "__name__",
    "__package__",
    "__path__",
    "__spec__",
    "__warningregistry__",
}
"""Names that a module has by itself."""
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


class CodeGraph:
    """The functions, classes and values that are reached from some code of a project.

    No part that cannot be described takes another one with it.
    """

    def __init__(self, home: str, directory: Path) -> None:
        """`home` is a module of the project, and `directory` its folder."""
        self._origins = Origins(home)
        self._directory = directory
        self._graph = Graph()

    def add(self, value: object) -> int | bytes:
        """Add a value with all that it refers to: a node's number, or a plain value as bytes."""
        found = leaf(value)
        if found is not None:
            return found
        return self._graph.node(id(value), value, lambda: self._described(value))

    def add_name(self, module: str, name: str) -> int | bytes | None:
        """Add what a module's name stands for, and the statements that make it."""
        found = sys.modules.get(module)
        if found is None or name not in vars(found):
            return None
        return self._named(vars(found), name, vars(found)[name])

    def hashes(self) -> Hashes:
        """The hashes of all that was added."""
        return self._graph.hashes()

    # -- what each thing is

    def _described(self, value: Any) -> CodeNode:
        # By its type alone: a proxy answers to isinstance with code of its own, which may raise.
        kind = type(value)
        found = (each for kinds, each in self._describers() if issubclass(kind, kinds))
        describe = next(found, self._instance)
        try:
            return describe(value)
        except Exception:  # noqa: BLE001 - code of the user's, which may raise anything
            text = code_text(value.__code__) if kind is FunctionType else b""
            return CodeNode(b"opaque" + text, [(self.add(kind),)])

    def _describers(self) -> Iterable[tuple[type | tuple[type, ...], Callable[[Any], CodeNode]]]:
        node = self._node
        yield FunctionType, self._function
        yield type, self._class
        yield MethodType, lambda it: node(b"method", (it.__func__, it.__self__))
        partials = (functools.partial, functools.partialmethod)
        yield partials, lambda it: node(b"partial", (it.func, it.args, it.keywords))
        wrappers = (staticmethod, classmethod)
        yield wrappers, lambda it: node(type(it).__name__.encode(), (it.__func__,))
        yield property, lambda it: node(b"property", (it.fget, it.fset, it.fdel))
        yield functools.cached_property, lambda it: node(b"cached_property", (it.func,))
        yield ModuleType, self._module
        yield BuiltinFunctionType, self._builtin

    def _node(self, label: bytes, values: Iterable[object]) -> CodeNode:
        return CodeNode(label, [(self.add(each),) for each in values])

    def _builtin(self, value: Any) -> CodeNode:
        of = value.__self__
        name = f"{value.__module__}.{value.__qualname__}".encode()
        # A method of a value, such as the `get` of a dictionary, is of that value.
        return self._node(name, () if of is None or isinstance(of, ModuleType) else (of,))

    def _function(self, value: FunctionType) -> CodeNode:
        names, code = value.__globals__, value.__code__
        foreign = self._origins.foreign(str(names.get("__name__", "")))
        inner = sorted(vars(value).items())
        closure = [
            (name, cell.cell_contents)
            for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True)
            if filled(cell)
        ]
        if foreign is not None:
            # A decorator of another package: what it wraps is the project's.
            wrapped = [each for _, each in [*closure, *inner] if self._has_code(each)]
            return self._node(f"{foreign} {value.__qualname__}".encode(), wrapped)
        source = attempt(lambda: source_of(code.co_filename, names))
        found = source.function(code) if source is not None else []
        label = b"".join(source.text(each).encode() for each in found) or code_text(code)
        parts: list[Part] = [self._effects(names)]
        for each in found:
            for decorator in getattr(each, "decorator_list", ()):
                parts += self._names(names, names_in(decorator))
        parts.append((b"defaults", self.add(value.__defaults__), self.add(value.__kwdefaults__)))
        parts += [(name.encode(), self.add(each)) for name, each in [*inner, *closure]]
        with part_of(parts, b"uses"):
            used = uses(code)
            parts += self._names(names, used.names)
            for level, module, taken in sorted(used.imports):
                with part_of(parts, module.encode()):
                    parts += self._imported(names, level, module, taken)
        if sees_all(value):
            parts.append((b"module", self._whole(names)))
        return CodeNode(label, parts)

    def _class(self, value: type) -> CodeNode:
        of = str(value.__module__)
        foreign = self._origins.foreign(of)
        if foreign is not None:
            return CodeNode(f"{foreign} {value.__qualname__}".encode())
        module = vars(sys.modules[of]) if of in sys.modules else {}
        source = attempt(lambda: source_of(module.get("__file__"), module))
        found = source.classes.get(value.__qualname__, []) if source is not None else []
        label = value.__name__ + "".join(source.text(each) for each in found)
        parts = [self._effects(module)]
        parts += [(b"base", self.add(each)) for each in value.__bases__ if each is not object]
        parts.append((b"type", self.add(type(value))))
        for each in found:
            parts += self._names(module, names_in(each, with_functions=False))
        if not found and module.get(value.__name__) is value:
            # It is made by a call.
            parts.append((b"made", self._named(module, value.__name__, value)))
        for name, member in sorted(vars(value).items()):
            with part_of(parts, name.encode()):
                if self._counts(value, name, member, in_source=bool(found)):
                    parts.append((name.encode(), self.add(member)))
        fields = vars(value).get("__dataclass_fields__", {})
        for name, each in fields.items():
            values = (each.type, each.default, each.default_factory)
            parts.append((name.encode(), *(self.add(one) for one in values)))
        return CodeNode(label.encode(), parts)

    def _counts(self, of: type, name: str, member: object, *, in_source: bool) -> bool:
        """Whether a class's member is code or a constant of the project."""
        function = getattr(member, "__func__", member)
        if isinstance(member, _SLOTS) or name == "_abc_impl":
            return False
        if isinstance(function, FunctionType):
            # What `dataclass` and the like generate follows from what the class says.
            generated = name.startswith("__") and function.__code__.co_filename.startswith("<")
            module = str(function.__globals__.get("__name__", ""))
            inherited = name.startswith("_") and self._origins.foreign(module) is not None
            in_source = in_source or bool({"_fields", "__dataclass_fields__"} & set(vars(of)))
            return not inherited and not (in_source and generated)
        inner = name.startswith("__") or (issubclass(of, Enum) and name.startswith("_"))
        return not inner or isinstance(member, property)

    def _instance(self, value: Any) -> CodeNode:
        kind = type(value)
        if kind in {dict, MappingProxyType}:
            pairs = [(self.add(key), self.add(each)) for key, each in value.items()]
            return CodeNode(b"dict", list(pairs), ordered=False)
        if kind in _CONTAINERS:
            node = self._node(kind.__name__.encode(), value)
            node.ordered = kind in {list, tuple}
            return node
        if issubclass(kind, Enum):
            return self._node(b"member", (kind, value.name, value.value))
        if issubclass(kind, PurePath):
            near = value.is_relative_to(self._directory)
            place = value.relative_to(self._directory) if near else value
            return self._node(b"path", (kind, str(place)))
        wrapped = attempt(lambda: value.__wrapped__)
        if issubclass(type(wrapped), _CODE):
            return self._node(b"wrapper", (kind, wrapped))
        return self._object(value, kind)

    def _object(self, value: Any, kind: type) -> CodeNode:
        foreign = self._origins.foreign(str(kind.__module__))
        parts: list[Part] = [(self.add(kind),)]
        own = sorted(attributes(value).items())
        if foreign is None:
            with part_of(parts, b"content"):
                parts += [(self.add(each),) for each in content(value)]
            parts += [(name.encode(), self.add(each)) for name, each in own]
        elif foreign in sys.stdlib_module_names | {"esops"}:
            parts += [(self.add(each),) for each in reduced(value)]
        else:
            # What such an object holds differs from process to process. How the project makes it
            # is seen where it is made.
            parts += [(self.add(each),) for _, each in own if self._has_code(each)]
        return CodeNode(b"instance", parts)

    def _has_code(self, value: object) -> bool:
        return issubclass(type(value), _CODE) or (
            attempt(lambda: getattr(value, "__wrapped__", None)) is not None
        )

    def _module(self, module: ModuleType) -> CodeNode:
        """A module that is used as a whole: all that is in it."""
        foreign = self._origins.foreign(module.__name__)
        if foreign is not None:
            return CodeNode(foreign.encode())
        names = vars(module)
        source = attempt(lambda: source_of(names.get("__file__"), names))
        label = "" if source is None else source.text(source.tree)
        parts = [self._effects(names), *self._names(names, {(name,) for name in names})]
        return CodeNode(label.encode(), parts)

    def _whole(self, globals_: Mapping[str, Any]) -> int | bytes:
        module = sys.modules.get(str(globals_.get("__name__")))
        return b"no module" if module is None else self.add(module)

    # -- what modules do while they are imported

    def _effects(self, globals_: Mapping[str, Any]) -> Part:
        name = str(globals_.get("__name__"))
        module = sys.modules.get(name)
        if module is None or self._origins.foreign(name) is not None:
            return (b"no module",)
        at = self._graph.node(("effects", name), module, lambda: self._done(vars(module)))
        return (b"effects", at)

    def _done(self, names: Mapping[str, Any]) -> CodeNode:
        source = attempt(lambda: source_of(names.get("__file__"), names))
        if source is None:
            return CodeNode(b"effects")
        by_project = functools.partial(self._by_project, names)
        nodes = [*effects(source), *registered(source, by_project)]
        parts: list[Part] = []
        for each in nodes:
            parts += self._names(names, names_in(each))
        for full in sorted(imports(source, str(names.get("__package__") or ""))):
            if full in sys.modules and self._origins.foreign(full) is None:
                parts.append(self._effects(vars(sys.modules[full])))
        return CodeNode("".join(["effects", *map(source.text, nodes)]).encode(), parts)

    def _by_project(self, names: Mapping[str, Any], decorator: ast.AST) -> bool:
        """Whether a decorator is of the project, or of an object of its classes."""
        made: ast.AST = decorator
        # What its arguments name does not make it a decorator of theirs.
        while isinstance(made, ast.Call | ast.Attribute | ast.Subscript):
            made = made.func if isinstance(made, ast.Call) else made.value
        if not isinstance(made, ast.Name) or made.id not in names:
            return False
        return self._origins.foreign(_home(names[made.id])) is None

    # -- what names stand for

    def _names(self, globals_: Mapping[str, Any], names: Iterable[Chain]) -> list[Part]:
        """What names of a module stand for; those of Python itself are no part of the project."""
        parts: list[Part] = []
        for chain in sorted(names):
            name = ".".join(chain).encode()
            if chain[0] in globals_ and chain[0] not in _OF_PYTHON:
                with part_of(parts, name):
                    parts.append((name, self._resolved(globals_, chain)))
        return parts

    def _resolved(self, globals_: Mapping[str, Any], chain: Chain) -> int | bytes:
        value, rest = globals_[chain[0]], chain[1:]
        name, of = chain[0], globals_
        while issubclass(type(value), ModuleType):
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
    ) -> list[Part]:
        """What a function imports while it runs."""
        full = full_name(level, module, str(globals_.get("__package__") or ""))
        foreign = self._origins.foreign(full)
        if foreign is not None:
            return [(full.encode(), foreign.encode())]
        found = importlib.import_module(full)
        if not names or "*" in names:
            return [(full.encode(), self._whole(vars(found)))]
        return self._names(vars(found), {(name,) for name in names})

    def _named(self, globals_: Mapping[str, Any], name: str, value: object) -> int | bytes:
        """A name's value, with the statements that make it."""
        if issubclass(type(value), ModuleType):
            return self.add(value)
        module = str(globals_.get("__name__"))
        at = self._graph.node(
            ("name", module, name), value, lambda: self._binding(globals_, name, value)
        )
        self._graph.call(f"{module}.{name}", at)
        return at

    def _binding(self, globals_: Mapping[str, Any], name: str, value: object) -> CodeNode:
        parts: list[Part] = [(self.add(value),)]
        source = attempt(lambda: source_of(globals_.get("__file__"), globals_))
        if source is None or self._origins.foreign(str(globals_.get("__name__"))) is not None:
            return CodeNode(b"value", parts)
        parts.append(self._effects(globals_))
        statements = source.binding(name)
        if not issubclass(type(value), (*_CODE, BuiltinFunctionType)):
            # It may keep what it decorates, as a registry does.
            statements += decorated_by(source, name)
        label = "".join(source.text(each) for each in statements)
        for each in statements:
            parts += self._names(globals_, names_in(each) - {(name,)})
        if not statements:
            parts += self._from_its_module(source, globals_, name, value)
        return CodeNode(b"value" + label.encode(), parts)

    def _from_its_module(
        self, source: Source, globals_: Mapping[str, Any], name: str, value: object
    ) -> list[Part]:
        """The name in the module from which it is imported."""
        package = str(globals_.get("__package__") or "")
        parts: list[Part] = []
        stars = [(level, module, name) for level, module in from_stars(source)]
        for level, module, there in [*imported_as(source, name), *stars]:
            with part_of(parts, module.encode()):
                found = vars(sys.modules[full_name(level, module, package)])
                if there in found and found[there] is value:
                    parts.append((b"from", self._named(found, there, value)))
        return list(dict.fromkeys(parts))


def _home(value: Any) -> str:
    """The module of a function or class, or of an object's class."""
    if issubclass(type(value), ModuleType):
        return str(value.__name__)
    kind = value if issubclass(type(value), FunctionType | type) else type(value)
    return str(kind.__module__)
