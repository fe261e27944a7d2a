"""`esops schema`: which schemas the events have had over the years, and what can read them. Each
command is a module of its own.
"""

from __future__ import annotations

from esops.cli.app import group

schema = group(
    "schema",
    "See which schemas events have had over the years, check them, and check code against them.",
    "esops schema contracts check",
)
