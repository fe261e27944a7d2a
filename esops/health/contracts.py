"""What doctor finds of contracts: readers that none names, and schemas that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator

from esops.config import Config
from esops.errors import EsopsError, UsageError
from esops.health.findings import Finding
from esops.stores import open_store

_FIX = (
    "Name it in `consumers`, or in `own` if it is the application's. "
    "esops schema contracts check says which private events it gets"
)


def examine(config: Config, name: str) -> Iterator[Finding]:
    """Check the contracts about one store. No event is read."""
    if not config.contracts:
        return
    # Imported only if there is a contract: it brings the validator.
    from esops.schema.contracts.contract import contract_of
    from esops.schema.contracts.leaving import foreign_readers
    from esops.stores.readers import readers_of

    contracts = []
    for contract, settings in config.contracts.items():
        try:
            if config.store(settings.store)[0] == name:
                contracts.append(contract_of(config, contract))
        except UsageError as error:
            if settings.store in {None, name}:
                yield Finding("ESOPS-D099", f"contract {contract}", error.message, error.hint)
    if not contracts:
        return
    try:
        with open_store(name, config.stores[name].without_archive) as store:
            foreign = foreign_readers(readers_of(store), contracts, config, name)
    except EsopsError:
        return  # the store itself has a finding
    for each in foreign:
        if not each.contracts and not each.reader.reads.asleep:
            yield Finding("ESOPS-D096", f"store {name}", f"{each.where} {each.detail}", _FIX)
