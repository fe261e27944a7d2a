"""Rebuilds of another way: in place, by ranges, by the application, inside the store."""
