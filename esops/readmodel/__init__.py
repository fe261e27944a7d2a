"""Versions of read models: their tables, rows, checkpoints, locks and dead letters."""
