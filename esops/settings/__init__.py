"""The sections of esops.toml, as frozen settings. Documented in docs/reference/configuration.md."""

from esops.settings.archives import ArchiveSettings, PolicySettings, Removal, StreamPortion
from esops.settings.base import Duration, Settings, named_duration, parse_duration
from esops.settings.contracts import ContractSettings, OutboxTable
from esops.settings.erasing import EraseSettings, Mask
from esops.settings.notify import NotifySettings
from esops.settings.projections import (
    HookSettings,
    ProjectionSettings,
    ReadModelSettings,
    VerifySettings,
    VersionSettings,
)
from esops.settings.questions import AuditSettings, Budget, BudgetSettings, TraceSettings
from esops.settings.stores import (
    STORE_SETTINGS,
    ArchiveStoreSettings,
    EventStoreDBSettings,
    PostgresSettings,
    StoreSettings,
    TableSettings,
)

__all__ = [
    "STORE_SETTINGS",
    "ArchiveSettings",
    "ArchiveStoreSettings",
    "AuditSettings",
    "Budget",
    "BudgetSettings",
    "ContractSettings",
    "Duration",
    "EraseSettings",
    "EventStoreDBSettings",
    "HookSettings",
    "Mask",
    "NotifySettings",
    "OutboxTable",
    "PolicySettings",
    "PostgresSettings",
    "ProjectionSettings",
    "ReadModelSettings",
    "Removal",
    "Settings",
    "StoreSettings",
    "StreamPortion",
    "TableSettings",
    "TraceSettings",
    "VerifySettings",
    "VersionSettings",
    "named_duration",
    "parse_duration",
]
