"""What a configuration says that is allowed, and still not meant: secrets in the file, keys without
effect, sections without use.
"""

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


def examine(config: Config) -> Iterator[Finding]:
    """Look at esops.toml as it is written."""
    document = tomllib.loads(config.path.read_text(encoding="utf-8"))
    subject = config.path.name
    for section in ("stores", "readmodels"):
        for name, settings in document.get(section, {}).items():
            if _has_password(str(settings.get("dsn", settings.get("uri", "")))):
                message = f"{section}.{name}: a password stands in the file"
                yield Finding(
                    "ESOPS-D030",
                    subject,
                    message,
                    "Write ${VARIABLE}, or use .pgpass or a service file.",
                )
    for name, settings in document.get("stores", {}).items():
        for key, layout in _OF_LAYOUT.items():
            if key in settings and settings.get("layout", layout) != layout:
                message = f"stores.{name}.{key} has an effect with layout {layout!r} alone"
                yield Finding("ESOPS-D031", subject, message, "Leave it out.")
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
