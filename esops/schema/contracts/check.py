"""`esops schema contracts check`: what leaves, and whether what is public keeps its contract.

One read of the log answers all of it: for each event, who gets it, which contracts make it public,
and whether its payload is what they promise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from esops.config import Config
from esops.errors import UsageError, nearest
from esops.events import RecordedEvent
from esops.schema.contracts.code import check_code
from esops.schema.contracts.contract import Contract, contracts_of, named_contracts
from esops.schema.contracts.findings import (
    ContractFinding,
    ContractFindings,
    FindingKey,
    FindingKind,
)
from esops.schema.contracts.leaving import ForeignReader, ReadByOthers, foreign_readers
from esops.schema.contracts.name_patterns import NamePatterns
from esops.schema.contracts.outboxes import OutboxMessage, messages, outboxes
from esops.schema.contracts.payloads import PayloadCheck
from esops.schema.decode.request import DecodeHooks
from esops.schema.reading import EventSelection, Progress, SchemaReader
from esops.schema.shapes import Shapes
from esops.stores import open_store
from esops.stores.base import EventStore, Unsettled
from esops.stores.readers import readers_of

_KNOWN = 50_000
"""Kinds of events (by type, category and tenant, and by stream where that matters) whose treatment
is held in memory.
"""


@dataclass
class ContractCheck:
    """What was found of one contract."""

    contract: Contract
    store: str
    findings: ContractFindings = field(default_factory=ContractFindings)
    public: dict[str, int] = field(default_factory=dict)
    """How many public events of each type there are, messages in outboxes included."""
    in_log: set[str] = field(default_factory=set)
    """The types of which there are public events in the log."""
    places: set[str] = field(default_factory=set)
    """The places of the contract in which there are public events."""
    payloads: dict[tuple[str, str | None], PayloadCheck | None] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        """Whether something counts."""
        return any(not each.is_note for each in self.findings)

    def count(self, type_: str, shapes: Shapes, where: str | None = None) -> PayloadCheck | None:
        """Count a public event, and give what checks its payload."""
        self.public[type_] = self.public.get(type_, 0) + 1
        if where is None:
            self.in_log.add(type_)
        key = (type_, where)
        if key not in self.payloads:
            schemas = self.contract.schemas
            known = schemas is not None and type_ in schemas.types
            self.payloads[key] = (
                PayloadCheck(self.findings, type_, schemas, shapes, where)
                if schemas is not None and known
                else None
            )
        return self.payloads[key]

    def finish(self, seen: Collection[str]) -> None:
        """Compare the types that are public with those that have a schema. `seen`: the types that
        the store has.
        """
        self.findings.drop_unused()
        contract, schemas = self.contract, self.contract.schemas
        types = set(self.public) | set(contract.exact_types)
        where = None if schemas is None else schemas.where
        for type_ in sorted(types):
            if schemas is None or type_ not in schemas.types:
                found = self._of("no-schema", type_, where)
                found.events = self.public.get(type_, 0)
            if type_ not in self.public:
                self._of("no-events", type_, detail=_meant(type_, seen))
        for type_ in () if schemas is None else sorted(schemas.types):
            if not contract.names_type(type_):
                self._of("unlisted-schema", type_, where)
            elif type_ not in types:
                self._of("no-events", type_)
        self._say_what_matches_nothing()

    def _say_what_matches_nothing(self) -> None:
        """Most often a name was mistyped; then nothing was checked that was meant."""
        if not self.public:
            self._of("no-events", None)
            return
        for pattern in self.contract.type_patterns:
            if not any(map(NamePatterns([pattern]).match, self.public)):
                self._of("no-events", pattern)
        for place in self.contract.places:
            if place not in self.places:
                self._of("no-events", None, place)

    def _of(
        self, kind: FindingKind, type_: str | None, where: str | None = None, detail: str = ""
    ) -> ContractFinding:
        return self.findings.of(FindingKey(kind, type_, where=where), detail)

    def as_dict(self) -> dict[str, Any]:
        """Under the documented names."""
        return {
            "name": self.contract.name,
            "store": self.store,
            "types": [
                {"type": type_, "events": self.public[type_]} for type_ in sorted(self.public)
            ],
            "findings": [each.as_dict() for each in self.findings],
        }


def _meant(type_: str, seen: Collection[str]) -> str:
    """The type of the store that has almost this name."""
    found = nearest(type_, seen)
    return found if type_ not in seen and found.startswith("Did") else ""


@dataclass
class ContractsChecked:
    """What was found, by contract; `short` says why the newest events are not in it."""

    checks: list[ContractCheck]
    events: int = 0
    messages: int = 0
    short: Unsettled | None = None

    @property
    def broken(self) -> bool:
        """Whether something counts."""
        return any(each.broken for each in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Under the documented names."""
        return {
            "events": self.events,
            "messages": self.messages,
            "contracts": [each.as_dict() for each in self.checks],
        }


def check_contracts(
    config: Config,
    names: Sequence[str] = (),
    store: str | None = None,
    progress: Callable[[str], Progress] = lambda _: lambda *_: None,
) -> ContractsChecked:
    """Check contracts by their names; without names all, or those of one store.

    Raises UsageError for a configuration that is wrong, Unavailable where a store is not reached.
    """
    by_store = contracts_of(config)
    asked = named_contracts(config, list(names))
    if store is not None and store not in by_store:
        config.store(store)
        raise UsageError(f"there is no contract about store {store}")
    found = ContractsChecked([])
    for name, contracts in by_store.items():
        checked = [each for each in contracts if each.name in asked]
        if not checked or store not in {None, name}:
            continue
        settings = config.stores[name]
        # A store that is joined with its archive has no tables: its readers are asked of it alone.
        with (
            open_store(name, settings) as opened,
            nullcontext(opened)
            if settings.cold is None
            else open_store(name, settings.without_archive) as hot,
        ):
            _StoreCheck(opened, hot, config, contracts, checked).run(found, progress(name))
    if not found.checks:
        raise UsageError(f"no contract that is named is about store {store}")
    order = [*config.contracts]
    found.checks.sort(key=lambda each: order.index(each.contract.name))
    return found


class _StoreCheck:
    """Checks the contracts about one store."""

    def __init__(
        self,
        store: EventStore,
        hot: EventStore,
        config: Config,
        contracts: Sequence[Contract],
        checked: Sequence[Contract],
    ) -> None:
        """`hot`: the store without its archive."""
        self._hot = hot
        self._store, self._config, self._contracts = store, config, contracts
        self._checks = [ContractCheck(each, store.name) for each in checked]
        self._shapes = Shapes()
        self._types: set[str] = set()
        findings = {each.contract: each.findings for each in self._checks}
        self._foreign = foreign_readers(readers_of(hot), contracts, config, store.name)
        self._others = ReadByOthers(self._foreign, contracts, findings, checked[0])
        self._by_stream = self._others.by_stream or any(each.by_stream for each in contracts)
        self._known: dict[tuple[Any, ...], tuple[list[ContractFinding], list[ContractCheck]]] = {}

    def run(self, found: ContractsChecked, progress: Progress) -> None:
        """Read the log, links and outboxes, and add what is found."""
        reader = SchemaReader(self._store, EventSelection(), progress)
        for events in reader.batches():
            for event in events:
                self._look_at(event)
        for foreign in self._foreign:
            self._follow_links(foreign)
        found.messages += self._outboxes()
        for each in self._checks:
            short = check_code(
                each.contract,
                sorted(each.in_log),
                each.findings,
                self._store,
                self._config,
                DecodeHooks(progress=lambda _, done, total: progress(done, total)),
            )
            found.short = found.short or short
        for each in self._checks:
            each.finish(self._types)
        found.checks += self._checks
        found.events += reader.events
        found.short = found.short or reader.short

    def _look_at(self, event: RecordedEvent) -> None:
        key: tuple[Any, ...] = (event.type, event.category, event.tenant)
        if self._by_stream:
            key = (*key, event.stream)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._types.add(event.type)
            public = [each for each in self._checks if each.contract.covers(event)]
            for check in public:
                check.places.update(check.contract.places_of(event))
            known = self._known[key] = (self._others.problems(event), public)
        for finding in known[0]:
            finding.add(event)
        for check in known[1]:
            payload = check.count(event.type, self._shapes)
            if payload is not None:
                payload.check(event.data, partial(ContractFinding.add, event=event))

    def _follow_links(self, foreign: ForeignReader) -> None:
        for stream in foreign.reader.reads.links:
            for event in self._store.read_stream(stream):
                # What was appended to the stream itself is in the log, and was looked at there.
                if event.stream != stream and not event.type.startswith("$"):
                    for finding in self._others.through_links(foreign, event):
                        finding.add(event)

    def _outboxes(self) -> int:
        described = [
            (each.name, table) for each in self._contracts for table in each.settings.outbox_tables
        ]
        access = self._hot.sql
        if access is None:
            if described:
                raise UsageError(
                    f"contracts.{described[0][0]}.outbox_tables: store {self._store.name} is not "
                    "in a Postgres database, where such a table could be"
                )
            return 0
        number = 0
        with access.control() as connection:
            for outbox in outboxes(connection, described, access.tables.schema):
                for message in messages(connection, outbox):
                    number += 1
                    self._look_at_message(message)
        return number

    def _look_at_message(self, message: OutboxMessage) -> None:
        table, destination, type_ = message.table, message.destination, message.type
        places = (destination, table, table.rpartition(".")[2])
        if any(each.own.match_any(places) for each in self._contracts):
            return
        there = [each for each in self._contracts if each.covers_outbox(table, destination)]
        public = [each for each in there if each.names_type(type_)]
        count = partial(ContractFinding.add_message, table=table, id_=message.row)
        if not public:
            home = next((each for each in self._checks if each.contract in there), self._checks[0])
            key = FindingKey("private-outbox", type_, where=destination)
            detail = "" if destination == table else f"from {table}"
            if home.contract in there or not there:
                count(home.findings.of(key, detail))
        for check in self._checks:
            if check.contract in public:
                payload = check.count(type_, self._shapes, destination)
                if payload is not None and message.data is not None:
                    payload.check(message.data, count)
