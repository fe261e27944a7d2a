"""Archives, empties and restores the store of a seed, and says what was not as it has to be."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import psycopg

from esops.archive.restore import restore
from esops.archive.run import RunRequest, run
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog
from esops.config import Config, load_config
from esops.errors import EsopsError, Refused
from esops.stores import open_store
from tests.support.random_stores.made import Store
from tests.support.random_stores.values import supported

SETTINGS = (
    "extra_float_digits = 0",
    "bytea_output = 'escape'",
    "IntervalStyle = 'iso_8601'",
    "DateStyle = 'SQL, DMY'",
    "TimeZone = 'Asia/Kolkata'",
)


class Trials:
    """Stores of many seeds, one after the other in one database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute("SET extra_float_digits = 3; SET TIME ZONE 'UTC'")
        # What every session of esops has to get over.
        name = self._connection.info.dbname
        for setting in SETTINGS:
            self._connection.execute(f"ALTER DATABASE {name} SET {setting}")
        self._kinds = supported(self._connection)
        self.counts: Counter[str] = Counter()

    def close(self) -> None:
        self._connection.close()

    def failure(self, seed: int) -> str | None:
        """What is wrong with the store of a seed; None where all is right."""
        made = Store(self._dsn, self._connection, seed, self._kinds)
        made.make()
        with tempfile.TemporaryDirectory() as folder:
            try:
                wrong = self._went_and_came_back(made, Path(folder))
            except Exception as error:  # any: it is told with the seed
                wrong = f"{type(error).__name__}: {error}"
        self.counts[made.name] += 1
        return wrong and f"seed {seed}: {wrong}\n    {'; '.join(made.made_of)}"

    def _went_and_came_back(self, made: Store, folder: Path) -> str | None:
        chance = made.chance
        with open_store("s", made.settings) as store:
            how = chance.choice([*store.archiving.removals])
            before = _read(store)
        config = configured(made, folder, how, chance)
        was = made.rows()
        prove = chance.random() < 0.5
        try:
            outcome = run(config, "old", RunRequest(despite_checkpoints=True, prove=prove))
        except Refused as refused:
            self.counts["refused"] += 1
            self.counts[f"refused: {refused.message[:90]}"] += 1
            return None if made.rows() == was else f"refused after a removal: {refused}"
        if outcome.state == "nothing":
            self.counts["nothing"] += 1
            return None if made.rows() == was else "changed, and nothing was to be done"
        if outcome.state != "done" or not outcome.removed_events + outcome.left_alone:
            return f"ended with {outcome.as_dict()}"
        self.counts[how] += 1
        self.counts["left alone"] += outcome.left_alone
        if outcome.left_alone:
            self.counts[f"left alone: {outcome.skipped[0]['reason'][:90]}"] += 1
        joined = made.settings.model_copy(update={"cold": config.archives["cold"]})
        with open_store("s", joined) as store:
            now = _read(store)
        if now != before:
            pair = next((p for p in zip(before, now, strict=False) if p[0] != p[1]), None)
            return f"{how}: the joined store reads {len(now)} of {len(before)} events: {pair}"
        ((found, manifest),) = Catalog(Repository(config.archives["cold"])).sealed()
        if manifest.events == len(was[0]) and chance.random() < 0.4:
            made.wipe()
            self.counts["into empty tables"] += 1
        with open_store("s", made.settings) as store:
            restore(found, manifest, store)
            if made.rows() != was:
                return f"{how}: {_difference(was, made.rows())}"
            return _appended(made, store)


def _read(store) -> list:
    """All events, their times as they are meant."""
    return [
        event._replace(recorded_at=event.recorded_microseconds)
        for batch in store.read_all()
        for event in batch.events
    ]


def _appended(made: Store, store) -> str | None:
    """The application goes on writing after a restore."""
    name = "cart-new" if made.layout.text_ids else "00000000-0000-0000-0000-00000000000a"
    if "tenant" in str(made.layout.settings) or not made.layout.tenants:
        try:
            store.append(name, [made._event()])
        except (EsopsError, psycopg.Error) as error:
            return f"an append failed after the restore: {error}"
    return None


def _difference(was: list[list[str]], now: list[list[str]]) -> str:
    for before, after in zip(was, now, strict=True):
        gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
        if gone or new:
            return f"{len(gone)} rows are others: {gone[:1]} became {new[:1]}"
    return "rows come twice"


def configured(made: Store, folder: Path, how: str, chance: random.Random) -> Config:
    """A policy that takes all streams."""
    path = folder / "esops.toml"
    path.write_text(
        f"[stores.s]\ndsn = {json.dumps(made.settings.dsn)}\n"
        "[archives.cold]\nrepository = 'cold'\nfile_size = 65536\n"
        f"[archives.cold.policies.old]\nstore = 's'\nstream = '*'\nremove = '{how}'\n"
        f"never_younger_than = '0s'\nbatch = {chance.choice([1, 3, 7, 1000])}\n"
    )
    config = load_config(path)
    return config.model_copy(update={"stores": {**config.stores, "s": made.settings}})
