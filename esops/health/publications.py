"""What doctor finds of logical replication: publications for which esops would refuse to work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg

from esops.health.findings import Finding
from esops.postgres import catalog, publications
from esops.readmodel.names import ReadModelName

_FIX = 'esops docs logical-replication   (its last way is publications = "allowed" in esops.toml)'


def of_read_model(
    subject: str, connection: psycopg.Connection, names: Sequence[ReadModelName]
) -> Iterator[Finding]:
    """Those that would publish esops' own tables, a new version's, or a table that readers use now
    and that a switch renames.
    """
    if publications.allowed(connection):
        return
    schemas = dict.fromkeys(["esops", *(name.schema for name in names)])
    covered = dict.fromkeys(
        each for schema in schemas for each in publications.of_new_tables(connection, schema)
    )
    if covered:
        yield Finding(
            "ESOPS-D059",
            subject,
            f"{' and '.join(covered)} would publish the tables that esops makes, and a subscriber "
            "that does not have them would stop: rebuilds are refused",
            _FIX,
        )
        return
    for name in names:
        table = catalog.find_table(connection, name.schema, name.name)
        if table is None or table.kind not in "rp" or not publications.decoded(connection):
            continue
        for each in publications.of_table(connection, table.oid, ""):
            yield Finding(
                "ESOPS-D059",
                subject,
                f"the publication {each.publication} would publish {name} under another name after "
                "a rebuild, and its subscribers would stop: rebuilds are refused",
                _FIX,
            )


def of_store(subject: str, connection: psycopg.Connection) -> Iterator[Finding]:
    """Those for which nothing is remembered in the store's database."""
    if publications.allowed(connection) or catalog.exists(connection, "esops.sightings"):
        return
    if found := publications.of_new_tables(connection, "esops"):
        yield Finding(
            "ESOPS-D059",
            subject,
            f"{' and '.join(found)} would publish esops' own tables, so esops makes none here: it "
            "does not remember between processes which missing numbers it has passed",
            _FIX,
        )
