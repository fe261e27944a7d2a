"""Is everything in place that the commands rely on?

Each thing that is checked yields findings, and one that cannot be checked is a finding itself: one
store that is down must not hide what is wrong with the others. The checks are in `stores`,
`postgres`, `eventstoredb`, `filters`, `projections`, `read_models`, `archives` and `configuration`.
"""

from __future__ import annotations

from esops.config import Config
from esops.health import (
    archives,
    configuration,
    contracts,
    filters,
    other_names,
    projections,
    stores,
    unnamed,
)
from esops.health.findings import SEVERITIES, Finding


def examine(config: Config, store: str | None = None) -> list[Finding]:
    """Check the configuration with all its stores, projections and archives, or only one store and
    its projections. The worst findings come first.

    Raises UsageError for an unknown store.
    """
    found: list[Finding] = []
    if not config.stores:
        found.append(
            Finding(
                "ESOPS-D052",
                config.path.name,
                "it names no store, so nothing was looked at",
                f"Add a section [stores.NAME] to {config.path.name}: esops docs configuration",
            )
        )
    if store is None:
        found += configuration.examine(config)
    for name in [config.store(store)[0]] if store is not None else config.stores:
        found += stores.examine(config, name)
        found += filters.examine(config, name)
        found += contracts.examine(config, name)
        found += other_names.examine(config, name)
    for name, settings in config.projections.items():
        if store is None or settings.store == store or len(config.stores) == 1:
            found += projections.examine(config, name)
    if store is None:
        found += unnamed.examine(config)
        for name in config.archives:
            found += archives.examine(config, name)
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))
