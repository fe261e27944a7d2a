"""Options in groups: what belongs together is one object, which several commands can take.

A group is a class whose fields are options, each with its type, default and Typer's declaration:

    @option_group(panel="Loading")
    class LoadOptions:
        batch_size: Annotated[int | None, typer.Option("--batch-size", min=1)] = None

A command takes it as a parameter of that type, `load: LoadOptions`. Where its help says it in other
words: `load: Annotated[LoadOptions, Wording(batch_size="…")]`.

Typer itself knows only flat parameters: it gets a function that has them, in the order of the
groups and of their fields, and that makes the objects. What reads a context's parameters therefore
finds the options by the names of the fields, which are unique in a command.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from typing import (
    Annotated,
    Any,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from typer.models import OptionInfo, ParameterInfo

_Group = TypeVar("_Group")
_PANEL = "_panel_of_options"


@dataclass_transform(frozen_default=True)
def option_group(*, panel: str | None = None) -> Callable[[type[_Group]], type[_Group]]:
    """Make a class a frozen dataclass of options. `panel`: the heading in help of those that name
    none themselves.
    """

    def made(group: type[_Group]) -> type[_Group]:
        # Nobody compares or prints them, and writing these methods takes half of the time.
        made = dataclass(frozen=True, eq=False, repr=False)(group)
        setattr(made, _PANEL, panel)
        return made

    return made


class Wording:
    """How the help of one command shows a group that others have, too."""

    def __init__(self, *, panel: str | None = None, **helps: str) -> None:
        """`panel`: the heading of the options that name none themselves. `helps`: the texts, by the
        names of the fields.
        """
        self.panel, self.helps = panel, helps


def option_names(group: type[Any]) -> tuple[str, ...]:
    """The names of a group's options, as a context has them."""
    return tuple(each.name for each in fields(group))


def with_flat_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command as Typer can call it: with an option for each field of the groups that it takes.

    Raises ValueError where two options have the same name, and TypeError where a Wording is of an
    option that the group does not have.
    """
    own = inspect.signature(function, eval_str=True)
    groups = {name: group for name, at in own.parameters.items() if (group := _group_of(at))}
    if not groups:
        return function

    @wraps(function)
    def flat(**given: Any) -> Any:
        for name, group in groups.items():
            given[name] = group(**{each: given.pop(each) for each in option_names(group)})
        return function(**given)

    parameters = [each for at in own.parameters.values() for each in _flattened(at)]
    flat.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    # Typer asks for both.
    flat.__annotations__ = {each.name: each.annotation for each in parameters}
    return flat


def _group_of(parameter: inspect.Parameter) -> type[Any] | None:
    """The group that a command takes by this parameter; None where it is an option itself."""
    group = parameter.annotation
    if get_origin(group) is Annotated:
        group = get_args(group)[0]
    return group if hasattr(group, _PANEL) else None


def _flattened(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """The parameter itself, or one for each field of the group that it is."""
    group = _group_of(parameter)
    if group is None:
        # By name, as Typer gives all of them: then those with a default may come first.
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    wordings = (each for each in get_args(parameter.annotation) if isinstance(each, Wording))
    words = next(wordings, Wording())
    if unknown := words.helps.keys() - set(option_names(group)):
        raise TypeError(f"{group.__name__} has no option {', '.join(sorted(unknown))}")
    panel = words.panel or getattr(group, _PANEL)
    types = get_type_hints(group, include_extras=True)
    for each in fields(group):
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=_shown(types[each.name], panel, words.helps.get(each.name)),
        )


def _shown(annotation: Any, panel: str | None, help: str | None) -> Any:
    """The type and declaration of an option, as a command's help shows it."""
    if get_origin(annotation) is not Annotated:
        return annotation
    type_, *declared = get_args(annotation)
    for at, each in enumerate(declared):
        if isinstance(each, ParameterInfo):
            declared[at] = copy(each)  # other commands have the same declaration
            declared[at].help = help or each.help
            # Arguments have a heading of their own.
            if isinstance(each, OptionInfo):
                declared[at].rich_help_panel = each.rich_help_panel or panel
    return Annotated[(type_, *declared)]
