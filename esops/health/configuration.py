"""What doctor checks in esops.toml: passwords in the file, keys without effect, unused sections."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from esops.config import Config
from esops.health.findings import Finding

_PASSWORD_IN_URI = re.compile(r"://[^:/@]+:(?P<password>[^@]+)@")
_OF_LAYOUT = {"append": "marten", "ordering": "emmett", "application": "eventsourcing"}
"""Keys of a store that have an effect with one layout only."""


def examine(config: Config) -> Iterator[Finding]:
    """Check esops.toml as it is written, before `${VARIABLE}` is replaced."""
    document = tomllib.loads(config.path.read_text(encoding="utf-8"))
    subject = config.path.name
    for section in ("stores", "readmodels"):
        for name, settings in document.get(section, {}).items():
            if _has_password(str(settings.get("dsn", settings.get("uri", "")))):
                yield Finding(
                    "ESOPS-D030",
                    subject,
                    f"{section}.{name}: the file contains a password",
                    "Write ${VARIABLE}, or use .pgpass or a service file.",
                )
    for name, settings in document.get("stores", {}).items():
        for key, layout in _OF_LAYOUT.items():
            if key in settings and settings.get("layout", layout) != layout:
                yield Finding(
                    "ESOPS-D031",
                    subject,
                    f"stores.{name}.{key} has an effect only with layout {layout!r}",
                    "Leave it out.",
                )
    used = {projection.readmodel for projection in config.projections.values()}
    for name in config.readmodels:
        if len(config.readmodels) > 1 and name not in used:
            yield Finding(
                "ESOPS-D031",
                subject,
                f"readmodels.{name}: no projection writes there",
                "Leave it out.",
            )


def _has_password(address: str) -> bool:
    found = _PASSWORD_IN_URI.search(address)
    password = found["password"] if found else None
    if "://" not in address:
        try:
            password = str(conninfo_to_dict(address).get("password") or "")
        except ProgrammingError:
            return False
    return bool(password) and not str(password).startswith("${")
