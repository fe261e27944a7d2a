"""Event stores in Postgres: one store class, one file a table layout."""

from esops.stores.postgres.store import PostgresStore, open_postgres

__all__ = ["PostgresStore", "open_postgres"]
