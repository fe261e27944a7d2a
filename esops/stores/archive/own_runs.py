"""Which sealed runs of a repository are those of a store.

A run is sealed under the name of its store's section. The name alone tells too little: a section
may have been renamed, or another one may name the same database. So a run under another name is
looked at, too: its manifest has what tells its log from another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esops.errors import Refused
from esops.events import Position
from esops.settings import StoreSettings
from esops.stores.archive.tenants import refuse_other_tenants
from esops.stores.base import EventStore
from esops.stores.parts import LogIdentity
from esops.wording import count

if TYPE_CHECKING:
    from esops.archive_format.manifest import Manifest
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Run

    SealedRun = tuple[Run, Manifest]


@dataclass
class OwnRuns:
    """The sealed runs of a repository, by what they are to a store; each list the oldest first."""

    store: str
    address: str
    """Of the repository."""
    names: tuple[str, ...]
    """Under which the store's runs are sealed."""
    own: list[SealedRun] = field(default_factory=list)
    """Sealed under one of these names."""
    others: list[SealedRun] = field(default_factory=list)
    """Sealed under another name, and with events of this store."""
    doubtful: list[SealedRun] = field(default_factory=list)
    """Sealed under a name that is in no section, and nothing tells whose events they hold."""
    opened: EventStore | None = None
    """The store, where it can be asked."""

    @property
    def all(self) -> list[SealedRun]:
        """Those with events of this store, the oldest first."""
        # Imported only where there is an archive, since it brings Parquet.
        from esops.archive_format.runs import age

        return sorted([*self.own, *self.others], key=age)

    def take_named(self, runs: Iterable[SealedRun]) -> list[SealedRun]:
        """Take the runs that are sealed under one of the store's names; returns the rest."""
        rest: list[SealedRun] = []
        for each in runs:
            (self.own if each[1].store in self.names else rest).append(each)
        return rest

    def may_be(self, name: str, sealed: Iterable[SealedRun], settings: StoreSettings) -> bool:
        """Whether a run under a name that is not sealed may be one of the store's. `sealed` are
        all sealed ones, `settings` the store's.
        """
        known = {*self.names, *(manifest.store for _, manifest in self.all)}
        if name in known or name not in settings.sections:
            return name in known or all(manifest.store != name for _, manifest in sealed)
        return settings.sections[name]

    def refuse_doubtful(self) -> None:
        """Raises Refused where runs may have events of this store, and nothing tells."""
        if not self.doubtful:
            return
        under = sorted({manifest.store for _, manifest in self.doubtful})
        raise Refused(
            f"{_counted(self.doubtful)} in {self.address} {_were(self.doubtful)} sealed under the "
            f"name {under[0]!r}, which is in no section of esops.toml, and nothing tells whether "
            f"its events are those of store {self.store}",
            hint=f"If they are: {self._of(under)}. If they are another store's, add its section "
            f"[stores.{under[0]}], or give each store a repository of its own.",
        )

    def refuse_others(self) -> None:
        """Raises Refused where runs with events of this store are not read with it, or cannot be
        read as one with it.
        """
        if self.others:
            raise Refused(self._finding(), hint=self._remedy())
        self.refuse_doubtful()
        if self.opened is not None:
            refuse_other_tenants(self.opened, self.own, read=True)

    def _finding(self) -> str:
        under = sorted({manifest.store for _, manifest in self.others})
        return (
            f"{_counted(self.others)} in {self.address} {_were(self.others)} sealed under the "
            f"name {', '.join(map(repr, under))} and {_has(self.others)} events of store "
            f"{self.store}: without them its history would have gaps"
        )

    def _remedy(self) -> str:
        under = sorted({manifest.store for _, manifest in self.others})
        return (
            f"Was the section renamed, or do two sections name one database? {self._of(under)}; "
            f"or call the section {under[0]} again."
        )

    def _of(self, more: Sequence[str]) -> str:
        own = [name for name in self.names if any(m.store == name for _, m in self.own)]
        named = ", ".join(f'"{name}"' for name in [*own, *more])
        value = named if len([*own, *more]) == 1 else f"[{named}]"
        return f"set of = {value} in [stores.{self.store}]"


def own_runs(
    repository: Repository,
    runs: Iterable[SealedRun],
    store: EventStore,
    settings: StoreSettings,
) -> OwnRuns:
    """Runs of a repository by what they are to a store, which is open, without its archive.

    `settings` are the store's. Where they say by `of` whose runs are read, a run that cannot be
    told is another's. Raises Damaged, Unavailable.
    """
    found = OwnRuns(store.name, repository.address, settings.sources(store.name), opened=store)
    strange = found.take_named(runs)
    if strange:
        info = store.ping()
        _look_at(found, strange, settings, (info.backend, info.layout), store.identity)
    return found


def runs_like(
    repository: Repository,
    runs: Iterable[SealedRun],
    name: str,
    settings: StoreSettings,
    like: Manifest,
) -> OwnRuns:
    """As `own_runs`, where the store cannot be asked: the runs of the log that one of them is of.

    `name` is the section of its store, or the name that the run is sealed under where it has none.
    """
    names = tuple(dict.fromkeys([*settings.sources(name), like.store]))
    found = OwnRuns(name, repository.address, names)
    _look_at(found, found.take_named(runs), settings, (like.backend, like.layout), None)
    return found


def _look_at(
    found: OwnRuns,
    strange: Iterable[SealedRun],
    settings: StoreSettings,
    kind: tuple[str, str],
    identity: LogIdentity | None,
) -> None:
    """Sort runs that are sealed under other names; `kind` is the store's backend and layout."""
    for run, manifest in strange:
        # Rows of another kind of tables are another store's.
        if (manifest.backend, manifest.layout) != kind:
            continue
        section = settings.sections.get(manifest.store)
        # A section that names the same place is the same store.
        verdict = section or _verdict(found.own, identity, run, manifest)
        if verdict:
            found.others.append((run, manifest))
        elif verdict is None and section is None and settings.source_store is None:
            found.doubtful.append((run, manifest))


def _verdict(
    own: Sequence[SealedRun], identity: LogIdentity | None, run: Run, manifest: Manifest
) -> bool | None:
    """Whether a run has events of a store; None where nothing tells."""
    verdict = None
    if identity is not None and manifest.log is not None:
        verdict = identity.tells(Position.parse(manifest.last_position), manifest.log)
    return _same_events(own, run, manifest) if verdict is None else verdict


def _same_events(own: Iterable[SealedRun], run: Run, manifest: Manifest) -> bool | None:
    """Whether a store's own runs have the events of another's at their positions; None where they
    have none there.

    What the store itself does not have any more, its own runs may have.
    """
    from esops.stores.archive.reading import Database

    low, high = Position.parse(manifest.first_position), Position.parse(manifest.last_position)
    near = [
        (each, known.model_copy(update={"store": "own"}))
        for each, known in own
        if known.position_parts == manifest.position_parts
        and Position.parse(known.last_position) >= low
        and Position.parse(known.first_position) <= high
    ]
    if not near:
        return None
    # One file of it is enough: the events of one log are all in it, or none.
    some = manifest.model_copy(update={"store": "other", "event_files": manifest.event_files[:1]})
    with Database([*near, (run, some)]) as database:
        row = database.connection.execute(
            f"WITH stored AS ({database.stored()}) SELECT bool_or((a.stream, a.version, a.type, "
            "a.id, a.id_text) IS NOT DISTINCT FROM (b.stream, b.version, b.type, b.id, b.id_text)) "
            "FROM stored a JOIN stored b ON a.position_1 = b.position_1 "
            "AND a.position_2 IS NOT DISTINCT FROM b.position_2 "
            "WHERE a.store = 'own' AND b.store = 'other'"
        ).fetchone()
    return None if row is None else row[0]


def _counted(runs: Sequence[SealedRun]) -> str:
    return f"run {runs[0][0].name}" if len(runs) == 1 else count(len(runs), "run")


def _were(runs: Sequence[SealedRun]) -> str:
    return "was" if len(runs) == 1 else "were"


def _has(runs: Sequence[SealedRun]) -> str:
    return "has" if len(runs) == 1 else "have"
