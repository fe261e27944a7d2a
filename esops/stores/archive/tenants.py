"""Whether the rows of an archive name tenants as their store does.

A store with several tenants tells two streams of one name apart by them; in one with a single
tenant events name none, and so does what is archived from it. Tables and settings change: Emmett's
application adds a partition, Marten's changes the key of its streams, a section is limited to one
tenant. From then on an event has one key in the archive and another one in the store, and nothing
that compares the two or reads them as one would find the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from esops.errors import Refused
from esops.stores.base import EventStore

if TYPE_CHECKING:
    from esops.archive_format.manifest import Manifest
    from esops.archive_format.runs import Run

_COLUMNS = {"emmett": "partition", "marten": "tenant_id"}
"""The column with the tenant, by layout: an archive has it also where events name none."""


def names_tenants(run: Run, manifest: Manifest) -> bool:
    """Whether the streams of a sealed run have tenants: all of them have, or none. Raises Damaged,
    Missing, Unavailable.
    """
    if manifest.tenants is not None:
        return manifest.tenants
    # Of an esops that did not write it down.
    return next((bool(digest.tenant) for digest, _ in run.streams(manifest)), False)


def refuse_other_tenants(
    store: EventStore,
    runs: Iterable[tuple[Run, Manifest]],
    *,
    read: bool = False,
    one_of_all: bool = False,
) -> None:
    """Raises Refused where a run's streams have tenants and the store's have none, or the other way
    round. The runs are of this store, or come back into it as they were.

    With `read`, they are read with a store, and one that is limited to a tenant (`tenant_scope`)
    finds its own. With `one_of_all`, the run may have more tenants than the store.
    """
    for run, manifest in runs:
        named = names_tenants(run, manifest)
        scope = store.tenant_scope
        scoped = read and scope is not None and scope.layout == manifest.layout
        same = named == store.capabilities.named_tenants
        if same or scoped or (named and one_of_all):
            continue
        if named:
            raise Refused(
                f"the streams of run {run.name} belong to several tenants, and those of store "
                f"{store.name} name none: esops cannot tell which are the same",
                hint=f"If [stores.{store.name}] has a `tenant`, leave it out for this. Otherwise "
                "restore the run with --into into a store that has these tenants, or read the "
                'archive as a store of its own (backend = "archive").',
            )
        raise Refused(
            f"the streams of run {run.name} name no tenant, since store {manifest.store} had none "
            f"then, and those of store {store.name} do: esops cannot tell which are the same",
            hint=_remedy(store, run, manifest, read=read),
        )


def _remedy(store: EventStore, run: Run, manifest: Manifest, *, read: bool) -> str:
    column = _COLUMNS.get(manifest.layout)
    only = None if column is None else _first(run, manifest, column)
    # Marten's streams bear the tenant's name also where one tenant alone is read.
    if only is None or not (read or manifest.layout == "emmett"):
        return (
            "Restore the run with --into into a store whose streams name no tenants, or read the "
            'archive as a store of its own (backend = "archive").'
        )
    return (
        f'Set tenant = "{only}" in [stores.{store.name}]: all of them were in that {column}. Give '
        "each other one a section and a policy of its own."
    )


def _first(run: Run, manifest: Manifest, column: str) -> str | None:
    """What an extra column has in a run's first event."""
    from esops.archive_format.schema import EXTRA_PREFIX

    if column not in manifest.columns:
        return None
    batches = (batch for entry in manifest.event_files for batch in run.batches(entry, 1))
    for batch in batches:
        value = batch.column(EXTRA_PREFIX + column)[0].as_py()
        return None if value is None else str(value)
    return None
