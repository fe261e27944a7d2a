"""The table layouts that esops knows, and how one is found in a database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psycopg

from esops import plugins
from esops.errors import NoTenant, UsageError, nearest
from esops.settings import PostgresSettings
from esops.stores.postgres.layouts import custom, eventsourcing, messagedb
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.layouts.emmett import tables as emmett
from esops.stores.postgres.layouts.marten import tables as marten

Detect = Callable[[psycopg.Connection, PostgresSettings], Sequence[Layout]]

ENTRY_POINT = "esops.layouts"
LAYOUTS: Mapping[str, Detect] = {
    "marten": marten.detect,
    "emmett": emmett.detect,
    "messagedb": messagedb.detect,
    "eventsourcing": eventsourcing.detect,
    "custom": custom.detect,
}


def known() -> dict[str, Detect]:
    """The layouts by name: esops' own, and those that installed packages bring by the entry point
    `esops.layouts`.
    """
    brought = {point.name: point.load() for point in plugins.brought(ENTRY_POINT)}
    # Those of esops win: a package that is installed for one layout must not replace another.
    return {**brought, **LAYOUTS}


def find_all(connection: psycopg.Connection, settings: PostgresSettings) -> list[Layout]:
    """Every event store that a database holds, of any layout."""
    return [layout for detect in known().values() for layout in detect(connection, settings)]


def find_layout(connection: psycopg.Connection, name: str, settings: PostgresSettings) -> Layout:
    """The one layout that a database holds under these settings.

    Raises UsageError where there is none, or several.
    """
    layouts = known()
    if settings.layout is not None and settings.layout not in layouts:
        raise UsageError(
            f"stores.{name}.layout: there is no layout named {settings.layout!r}",
            hint=nearest(settings.layout, layouts),
        )
    # A described table is what the user wants, whatever else the database holds.
    asked = settings.layout or ("custom" if settings.table is not None else None)
    wanted = [asked] if asked else list(layouts)
    found, refused = list[Layout](), list[UsageError]()
    for each in wanted:
        try:
            found += layouts[each](connection, settings)
        except UsageError as error:
            refused.append(error)
    if refused and not found:
        raise type(refused[0])(f"stores.{name}.{refused[0].message}", hint=refused[0].hint)
    found = _with_tenants(name, found, settings)
    database = connection.info.dbname
    if not found:
        where = (
            f"schema {settings.db_schema!r} of database {database!r}"
            if settings.db_schema
            else f"database {database!r}"
        )
        raise UsageError(
            f"stores.{name}: {where} holds no event store that esops knows ({', '.join(wanted)})",
            hint="Check dsn and schema. A table of your own can be described under "
            "[stores.NAME.table].",
        )
    if len(found) > 1:
        there_are = ", ".join(
            f"{described(layout)} in schema {layout.schema!r}" for layout in found
        )
        # The key that tells these stores apart, so that the hint names one which works.
        distinguishing = next(
            (
                key
                for key in ("application", "tenant")
                if len({layout.detail.get(key) for layout in found}) > 1
            ),
            None,
        )
        raise UsageError(
            f"stores.{name}: database {database!r} holds several event stores: {there_are}",
            hint=f"Name one with `{distinguishing}`."
            if distinguishing
            else "Name one with `schema` (and `layout`).",
        )
    return found[0]


def _with_tenants(name: str, found: Sequence[Layout], settings: PostgresSettings) -> list[Layout]:
    """Those that can have the tenant of the settings, of esops' own layouts; it is for other
    packages to say what theirs can.

    Raises UsageError where none can.
    """
    if settings.tenant is None:
        return list(found)
    fit = [each for each in found if each.tenant_column is not None or each.name not in LAYOUTS]
    if found and not fit:
        raise NoTenant(
            f"stores.{name}.tenant: layout {found[0].name} has no tenants, so all events would be "
            f"read for those of {settings.tenant!r}",
            hint="Remove `tenant`.",
        )
    return fit


def described(layout: Layout) -> str:
    """A layout's name, with its application's or tenant's where that tells it from others."""
    inside = layout.detail.get("application") or layout.detail.get("tenant")
    return f"{layout.name} of {inside}" if inside else layout.name
