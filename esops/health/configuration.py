"""What doctor checks in esops.toml: passwords in the file, keys without effect, unused sections."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from esops.config import Config
from esops.errors import nearest
from esops.health.findings import Finding
from esops.notifying.delivery import problem_of

_PASSWORD_IN_URI = re.compile(r"://[^:/@]+:(?P<password>[^@]+)@")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
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
    yield from _of_notifications(config, document.get("notify", {}))
    used = {projection.readmodel for projection in config.projections.values()}
    for name in config.readmodels:
        if len(config.readmodels) > 1 and name not in used:
            yield Finding(
                "ESOPS-D031",
                subject,
                f"readmodels.{name}: no projection writes there",
                "Leave it out.",
            )


def _of_notifications(
    config: Config, sections: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    """What is wrong with who is to be told; `sections` are those of the file as it is written."""
    subject = config.path.name
    for name, settings in config.notify.items():
        problem = problem_of(settings, config.directory)
        if problem is not None:
            fix = "Try it with: esops doctor --notify"
            yield Finding("ESOPS-D092", subject, f"notify.{name}: {problem}", fix)
        for each in settings.projections:
            if each not in config.projections:
                hint = nearest(each, config.projections)
                text = f"notify.{name}.projections names {each!r}, which is no projection"
                yield Finding("ESOPS-D092", subject, text, hint)
        written = sections[name]
        address = written.get("webhook", written.get("apprise", ""))
        if address and "${" not in address and urlsplit(address).hostname not in _THIS_MACHINE:
            yield Finding(
                "ESOPS-D030",
                subject,
                f"notify.{name}: the file contains the address, which is as good as a password",
                "Write ${VARIABLE}.",
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
