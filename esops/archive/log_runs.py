"""Whose log a run is of, and which other runs are of the same log: in all archives, and under
whatever names they are sealed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from esops.archive_format.manifest import Manifest
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog, Run, age
from esops.config import Config
from esops.errors import EsopsError, Unavailable, UsageError
from esops.settings import StoreSettings
from esops.stores import open_store
from esops.stores.archive.own_runs import OwnRuns, own_runs, runs_like
from esops.stores.base import EventStore

if TYPE_CHECKING:
    from esops.stores.archive.own_runs import SealedRun

_NO_SECTION = StoreSettings(backend="")


@dataclass(frozen=True)
class LogRuns:
    """The log that a run is of, and its sealed runs."""

    home: str
    """Its store, in words."""
    at_home: bool
    """Whether the store that the run is restored into has this log."""
    may_be_home: bool
    """Whether it has, or nothing tells."""
    runs: Sequence[SealedRun]
    """The oldest first."""
    doubtful: Sequence[OwnRuns]
    """Those of which nothing tells whether they are of this log."""
    archives: Mapping[str, str] = field(default_factory=dict)
    """The names of other archives, by the addresses of their repositories."""
    config: Config | None = None
    """Which other stores, archives and read models there are."""
    section: str | None = None
    """That of its store, where it is another one and esops.toml has it."""

    @contextmanager
    def opened_home(self, manifest: Manifest) -> Iterator[EventStore | None]:
        """Its store, without its archive; None where that is gone, or is the one that the run is
        restored into. Raises Unavailable.
        """
        if self.config is None or self.section is None:
            yield None
            return
        settings = self.config.stores[self.section].without_archive
        with open_store(self.section, settings) as store:
            info = store.ping()
            # Another store may have taken its place.
            same = (info.backend, info.layout) == (manifest.backend, manifest.layout)
            yield store if same else None

    def place_of(self, run: Run) -> int:
        """The number of a run among `runs`; the next free one where it is none of them."""
        names = [other.name for other, _ in self.runs]
        return names.index(run.name) if run.name in names else len(names)

    def named(self, run: Run) -> str:
        """A run as `esops archive restore` takes it."""
        archive = self.archives.get(run.repository.address)
        return run.name if archive is None else f"{run.name} --archive {archive}"

    def refuse_doubtful(self, own: OwnRuns, run: SealedRun) -> None:
        """Raises Refused for a run that may be of this log, or of another."""
        replace(own, doubtful=[run]).refuse_doubtful()


class _Archive:
    """The sealed runs of one repository, read once."""

    def __init__(self, repository: Repository, name: str | None = None) -> None:
        """Raises AbsentArchive, Damaged, Unavailable."""
        self.repository, self.name = repository, name
        catalog = Catalog(repository)
        self.sealed = catalog.sealed()
        if not self.sealed:
            catalog.check_there()


def log_of(
    run: Run, manifest: Manifest, store: EventStore, config: Config | None = None
) -> LogRuns:
    """The log of a run that is to be restored into a store, which is open, without its archive.

    Without a configuration there is no other store and no other archive.

    Raises Refused where events can come back only at home, and nothing tells whether that is here;
    Damaged, Unavailable for an archive that may have runs of the log and cannot be read.
    """
    settings = _NO_SECTION if config is None else config.stores.get(store.name, _NO_SECTION)
    archives = list(_archives(run, config))
    found = [own_runs(each.repository, each.sealed, store, settings) for each in archives]
    at_home = any(_is(run, each) for own in found for each, _ in own.all)
    doubt = [own for own in found if any(_is(run, each) for each, _ in own.doubtful)]
    home, section = f"store {store.name}", None
    if not at_home:
        for own in doubt:
            if store.archiving is not None and store.archiving.restores == "in place":
                replace(own, doubtful=[(run, manifest)]).refuse_doubtful()
        if config is not None:
            with suppress(UsageError):
                section = Homes(config).of(run, manifest)
        home = f"store {section}" if section else f"the store that was called {manifest.store}"
        found = _of_another(manifest, archives, config, section)
    return LogRuns(
        home,
        at_home,
        at_home or bool(doubt),
        sorted((each for own in found for each in own.all), key=age),
        [own for own in found if own.doubtful],
        {each.repository.address: each.name for each in archives if each.name is not None},
        config,
        section if section != store.name else None,
    )


def _is(run: Run, other: Run) -> bool:
    return (run.name, run.repository.address) == (other.name, other.repository.address)


def _archives(run: Run, config: Config | None) -> Iterator[_Archive]:
    """The archive of a run, and all others of the configuration."""
    yield _Archive(run.repository)
    for name, settings in config.archives.items() if config is not None else ():
        if settings.repository == run.repository.address:
            continue
        # Whatever store its policies name: only the archive tells whose events it has.
        yield _Archive(Repository(settings), name)


def _of_another(
    manifest: Manifest, archives: Sequence[_Archive], config: Config | None, section: str | None
) -> list[OwnRuns]:
    """The runs of the log of another store; that may be gone, and its section, too."""
    settings = _NO_SECTION
    if config is not None and section is not None:
        settings = config.stores[section]
        with suppress(EsopsError), open_store(section, settings.without_archive) as store:
            return [own_runs(each.repository, each.sealed, store, settings) for each in archives]
    name = section or manifest.store
    return [runs_like(each.repository, each.sealed, name, settings, manifest) for each in archives]


class Homes:
    """Which section of a configuration is the store that a run came from."""

    def __init__(self, config: Config) -> None:
        """Opens a store only where no name tells."""
        self._config = config
        self._sections: dict[str, dict[str, str]] = {}
        """The sections of runs by their names, by the address of their repository."""

    def of(self, run: Run, manifest: Manifest) -> str:
        """The name of the section. Raises UsageError where nothing tells, Unavailable."""
        found = self._by_name(manifest.store) or self._by_log(run.repository).get(run.name)
        if found is None:
            raise UsageError(
                f"run {run.name} was sealed under the name {manifest.store!r}, and no section of "
                "esops.toml is known to be that store",
                hint=f'Was the section renamed? Then set of = ["{manifest.store}", "NEW"] in '
                "[stores.NEW]. A restore takes another store by --into.",
            )
        return found

    def _stores(self) -> dict[str, StoreSettings]:
        return {
            name: each for name, each in self._config.stores.items() if each.backend != "archive"
        }

    def _by_name(self, name: str) -> str | None:
        stores = self._stores()
        if name in stores and name in stores[name].sources(name):
            return name
        named = [each for each, settings in stores.items() if name in settings.sources(each)]
        # Several are one where they name the same place: a copy of a store may read its archive.
        same = len({stores[each].place or each for each in named}) == 1
        return named[0] if same else None

    def _by_log(self, repository: Repository) -> dict[str, str]:
        """What the logs of the stores that can be reached tell."""
        if repository.address not in self._sections:
            sections: dict[str, str] = {}
            lost: Unavailable | None = None
            sealed = Catalog(repository).sealed()
            for name, settings in self._stores().items():
                alone = settings.model_copy(update={"cold": None, "source_store": None})
                try:
                    with open_store(name, alone) as store:
                        own = own_runs(repository, sealed, store, alone)
                except Unavailable as error:
                    lost = error
                    continue
                for run, _ in own.all:
                    sections.setdefault(run.name, name)
            if lost is not None and not sections:
                raise lost
            self._sections[repository.address] = sections
        return self._sections[repository.address]
