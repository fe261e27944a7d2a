"""Who may read what: the readers of a store against its contracts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from esops.config import Config
from esops.events import RecordedEvent
from esops.schema.contracts.contract import Contract
from esops.schema.contracts.findings import ContractFinding, ContractFindings, FindingKey
from esops.schema.contracts.name_patterns import NamePatterns
from esops.stores.readers import EventReader


class ForeignReader:
    """A reader that is not the application's own, as far as the configuration says."""

    def __init__(self, reader: EventReader, contracts: Sequence[Contract]) -> None:
        """`contracts`: all that are about its store."""
        self.reader = reader
        self.contracts = [each for each in contracts if each.lists(reader.names)]
        """The contracts that name it as a consumer."""
        self._allowed = [each for each in contracts if each.allows(reader.names)]

    @property
    def where(self) -> str:
        """What a finding says of it."""
        return f"{self.reader.kind} {self.reader.name}"

    @property
    def detail(self) -> str:
        """The same for a person."""
        named = "" if self.contracts else "; no contract names this reader"
        reads = self.reader.reads
        return f"reads {reads.words}{named}" + (f"; {reads.asleep}" if reads.asleep else "")

    def problem_with(
        self, public_by: Sequence[Contract], home: Contract
    ) -> Iterator[tuple[Contract, str]]:
        """What is wrong with its reading an event that some contracts make public: a kind of
        finding, and whose it is. `home`: the contract that gets what is of no other.
        """
        if any(each in self._allowed for each in public_by):
            return
        if public_by:
            yield public_by[0], "unlisted-consumer"
        else:
            yield (self.contracts or [home])[0], "private-read"


def foreign_readers(
    readers: Iterable[EventReader], contracts: Sequence[Contract], config: Config, store: str
) -> list[ForeignReader]:
    """Those readers that are neither esops' own nor declared as the application's own."""
    own = own_readers(config, store)
    return [
        ForeignReader(each, contracts)
        for each in readers
        if not own.match_any(each.names)
        and not any(contract.own.match_any(each.names) for contract in contracts)
    ]


def own_readers(config: Config, store: str) -> NamePatterns:
    """The names of what the projections of a configuration are read by in a store."""
    names: list[str] = []
    for name, projection in config.projections.items():
        if config.store(projection.store)[0] != store:
            continue
        if projection.checkpoint is not None:
            names.append(projection.checkpoint)
        if projection.kind == "server":
            names += [name, f"{name}-v*"]
    return NamePatterns(names)


class ReadByOthers:
    """Counts the events that foreign readers get and should not."""

    def __init__(
        self,
        readers: Sequence[ForeignReader],
        contracts: Sequence[Contract],
        findings: dict[Contract, ContractFindings],
        home: Contract,
    ) -> None:
        """`findings`: of the contracts that are checked; `home` is one of them."""
        self._readers = [each for each in readers if each.reader.reads.known]
        self._contracts, self._findings, self._home = contracts, findings, home
        for each in readers:
            if not each.reader.reads.known:
                self._of((each.contracts or [home])[0], "unknown-reads", None, each)

    @property
    def by_stream(self) -> bool:
        """Whether the stream of an event has to be looked at."""
        return any(each.reader.reads.by_stream for each in self._readers)

    def problems(self, event: RecordedEvent) -> list[ContractFinding]:
        """The findings that an event of the log belongs to."""
        public_by = [each for each in self._contracts if each.covers(event)]
        return [
            finding
            for reader in self._readers
            if reader.reader.reads.admits(event)
            for finding in self._of_reader(reader, public_by, event.type)
        ]

    def through_links(self, reader: ForeignReader, event: RecordedEvent) -> list[ContractFinding]:
        """The same for an event that a reader gets by a link."""
        public_by = [each for each in self._contracts if each.covers(event)]
        return list(self._of_reader(reader, public_by, event.type))

    def _of_reader(
        self, reader: ForeignReader, public_by: Sequence[Contract], type_: str
    ) -> Iterator[ContractFinding]:
        for contract, kind in reader.problem_with(public_by, self._home):
            found = self._of(contract, kind, type_, reader)
            if found is not None:
                yield found

    def _of(
        self, contract: Contract, kind: str, type_: str | None, reader: ForeignReader
    ) -> ContractFinding | None:
        """None where that contract is not checked this time."""
        findings = self._findings.get(contract)
        key = FindingKey(kind, type_, where=reader.where)  # type: ignore[arg-type]
        if findings is None:
            return None
        found = findings.of(key, reader.detail)
        found.note = bool(reader.reader.reads.asleep)
        return found
