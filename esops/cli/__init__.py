"""The command line: each module one command group.

It parses, calls one job, prints what that returns.

Nothing heavy is imported here: `esops --help` has to answer at once.
"""

from esops.cli.app import main

__all__ = ["main"]
