"""Postgres as infrastructure: connections, the catalogue. It knows nothing of events."""
