"""Brings the command groups onto the root, in the order in which help lists them."""

from __future__ import annotations

from importlib import import_module

MODULES = (
    "init",
    "doctor",
    "status",
    "metrics",
    "rebuild",
    "run",
    "projection",
    "serving",
    "renaming",
    "dead_letters",
    "archive",
    "erase",
    "audit",
    "trace",
    "events",
    "demo",
    "docs",
)


def commands() -> None:
    """Import the modules of all commands; each is light."""
    for module in MODULES:
        import_module(f"esops.cli.{module}")
