"""A contract of esops.toml with its schemas: what is public by it."""

from __future__ import annotations

from collections.abc import Iterator

from esops.config import Config
from esops.errors import UsageError
from esops.events import RecordedEvent
from esops.schema.contracts.name_patterns import NamePatterns
from esops.schema.contracts.outboxes import without_user
from esops.schema.files import SchemaSet, read_schemas
from esops.settings import ContractSettings


class Contract:
    """What other teams may rely on."""

    def __init__(self, name: str, settings: ContractSettings, schemas: SchemaSet | None) -> None:
        """`schemas`: those of its directory; None where it names none."""
        self.name, self.settings, self.schemas = name, settings, schemas
        self._types = None if settings.types is None else NamePatterns(settings.types)
        self._streams = NamePatterns(settings.streams or ())
        self._categories = NamePatterns(settings.categories or ())
        # Destinations are compared without what nobody is to see of them.
        self._outboxes = NamePatterns(map(without_user, settings.outboxes))
        self._consumers = NamePatterns(settings.consumers)
        self.own = NamePatterns(map(without_user, settings.own))
        """The readers and destinations of the application itself."""

    @property
    def by_stream(self) -> bool:
        """Whether it depends on the stream of an event, and not only on category and type."""
        return self.settings.streams is not None

    @property
    def exact_types(self) -> tuple[str, ...]:
        """The types that it names one by one."""
        return () if self._types is None else self._types.exact

    @property
    def all_types(self) -> bool:
        """Whether every type is public in the places that it names."""
        return self._types is None

    def names_type(self, type_: str) -> bool:
        """Whether a type is public, in the places that it names."""
        return self._types is None or self._types.match(type_)

    def covers(self, event: RecordedEvent) -> bool:
        """Whether an event of the log is public."""
        if not self.names_type(event.type):
            return False
        return (
            self.settings.everywhere
            or self._streams.match(event.stream)
            or (event.category is not None and self._categories.match(event.category))
        )

    def places_of(self, event: RecordedEvent) -> Iterator[str]:
        """The places of the contract that a public event is in, in words."""
        for what, patterns, name in (
            ("category", self._categories, event.category),
            ("stream", self._streams, event.stream),
        ):
            for each in patterns.patterns:
                if name is not None and NamePatterns([each]).match(name):
                    yield f"{what} {each}"

    @property
    def places(self) -> list[str]:
        """The categories and streams that it names, in words."""
        settings = self.settings
        categories = [f"category {each}" for each in settings.categories or ()]
        return [*categories, *(f"stream {each}" for each in settings.streams or ())]

    @property
    def type_patterns(self) -> tuple[str, ...]:
        """What it writes in `types`."""
        return () if self._types is None else self._types.patterns

    def covers_outbox(self, table: str, destination: str) -> bool:
        """Whether messages there are meant, of its types."""
        return self.settings.everywhere or self._outboxes.match_any(
            (destination, table, table.rpartition(".")[2])
        )

    def lists(self, names: tuple[str, ...]) -> bool:
        """Whether a reader with these names is one of its consumers."""
        return self._consumers.match_any(names)

    def allows(self, names: tuple[str, ...]) -> bool:
        """Whether a reader may read what is public; anybody may where no consumer is named."""
        return not self.settings.consumers or self.lists(names)


def contracts_of(config: Config) -> dict[str, list[Contract]]:
    """All contracts of a configuration, by the store that they are about.

    Raises UsageError where there is none, or where one names a store or a directory that is none.
    """
    if not config.contracts:
        raise UsageError(
            f"{config.path}: there is no contract",
            hint="Add a section [contracts.NAME] with the public `types`.",
        )
    found: dict[str, list[Contract]] = {}
    for name, settings in config.contracts.items():
        store, _ = config.store(settings.store)
        found.setdefault(store, []).append(contract_of(config, name))
    return found


def contract_of(config: Config, name: str) -> Contract:
    """One contract. Raises UsageError that names the nearest one, or what is wrong with it."""
    settings = config.contract(name)
    return Contract(name, settings, _schemas(config, settings))


def named_contracts(config: Config, names: list[str]) -> list[str]:
    """The names of the contracts that are asked for: all where none is named. Raises UsageError."""
    for name in names:
        config.contract(name)
    return names or list(config.contracts)


def _schemas(config: Config, settings: ContractSettings) -> SchemaSet | None:
    if settings.schemas is None:
        return None
    folder = config.directory / settings.schemas.expanduser()
    # As esops.toml names it: the same words wherever the project's folder is.
    where = str(settings.schemas)
    if not folder.exists():
        raise UsageError(
            f"the schema directory {where} does not exist",
            hint=f"Make one with `esops schema infer -o {where} --type TYPE`, with a --type for "
            "each public type, or write a file for each.",
        )
    return read_schemas(folder, where)
