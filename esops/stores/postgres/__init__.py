"""Event stores in Postgres: one store class, one file a table layout."""
