"""Earlier erasures of the same request that named places where something is left: a later one does
not know the values any more, so it says so until an operator confirms that these are cleared.
"""

from __future__ import annotations

from collections.abc import Sequence

from esops.config import Config
from esops.erasing.read_models import ReadModels
from esops.erasing.sweep import Findings
from esops.erasing.traces import Place
from esops.errors import EsopsError, Refused, UsageError
from esops.json_paths import JsonPath
from esops.postgres.connection import connect, translated
from esops.postgres.session import READ
from esops.readmodel import migrations, open_erasures
from esops.readmodel.open_erasures import AskedFor
from esops.wording import count


class Earlier:
    """The notes of one request's erasures, in the databases of the store and its read models."""

    def __init__(
        self,
        models: ReadModels,
        store: str,
        streams: Sequence[str],
        conditions: Sequence[tuple[JsonPath, str]],
    ) -> None:
        """Nothing is connected to yet."""
        self._models, self._store = models, store
        self._asked = AskedFor(streams, [f"{path}={value}" for path, value in conditions])
        self._own: tuple[str, int] | None = None
        """The database and number of this erasure's own note."""

    def look(self) -> Findings:
        """What earlier ones have named, but for this one."""
        findings = Findings()
        for dsn in self._models.databases:
            with translated(), connect(dsn, "erase", READ) as connection:
                found = open_erasures.of_request(connection, self._asked)
            for each in found:
                if (dsn, each.id) == self._own:
                    continue
                did = "ended with" if each.ended else "did not end, and had found"
                what = f"{did} {count(each.places_left, 'place')} left"
                place = Place(
                    f"erasure {each.id} of store {each.store}",
                    f"{each.at:%Y-%m-%d %H:%M}",
                    each.reason,
                    f"it {what}, and its values are not known any more. Clear these, then: "
                    f"esops erase --done {each.id}",
                )
                findings.leave(place, each.places_left)
                for named in each.places:
                    findings.leave(Place(*named), 0)
        return findings

    def note(self, reason: str, found: Findings) -> None:
        """Note what is left, before anything is masked. Raises Refused where that cannot be."""
        dsns = list(self._models.databases)
        try:
            with translated():
                for dsn in dsns:
                    with connect(dsn, "erase", READ) as connection:
                        if migrations.installed(connection):
                            break
                else:
                    dsn = self._models.own or dsns[0]
                with connect(dsn, "erase") as connection:
                    migrations.install(connection)
                    number = open_erasures.note(
                        connection, self._asked, self._store, reason, found.values, found.places
                    )
        except EsopsError as error:
            raise Refused(
                f"values would be left in {count(found.values, 'place')}, and esops cannot note "
                f"that before it masks them: {error.message}",
                hint="Extend the rule until --dry-run names none, or let the role create esops' "
                "tables: GRANT CREATE ON DATABASE … TO …",
            ) from None
        self._own = (dsn, number)

    def end(self, reason: str, found: Findings) -> None:
        """Note what is left in the end; nothing of one that has left nothing."""
        if self._own is None:
            if found.values:
                self.note(reason, found)
            else:
                return
        assert self._own is not None
        dsn, number = self._own
        with translated(), connect(dsn, "erase") as connection:
            open_erasures.end(connection, number, found.values, found.places)


def confirm_done(config: Config, store: str | None, number: int) -> str:
    """Forget an erasure whose places are cleared; its store's name. Raises UsageError."""
    name, _ = config.store(store)
    done = False
    for dsn in ReadModels(config, name).databases:
        with translated(), connect(dsn, "erase") as connection:
            done |= open_erasures.forget(connection, number, name)
    if not done:
        raise UsageError(f"--done: store {name} has no erasure {number} that has left something")
    return name
