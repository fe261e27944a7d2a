"""The versions that `esops run` leaves to others."""

from __future__ import annotations

from esops.config import Config
from esops.readmodel.registry import Version


def never_followed(config: Config, version: Version) -> str | None:
    """Why `esops run` never follows a version, if so."""
    settings = config.projection(version.projection)
    serves = version.state == "active"
    if settings.live == "inline":
        stands = "it does not advance before a rollback"
        return "the application writes it with each append" if serves else stands
    # A version whose rows are of another history is refused by its process.
    adopted = version.position is None and version.fingerprint is None
    if adopted and version.lost is None:
        return "it was adopted from the application and has no checkpoint"
    if version.lost is not None and version.state == "standby":
        return "it was given up, and stands by until you retire it"
    if settings.kind == "external" or (serves and settings.live == "app"):
        return "the application keeps it fresh"
    return None
