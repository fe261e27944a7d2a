"""The options that work with every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GlobalOptions:
    """The options that work with every command, as they were given."""

    config: Path | None = None
    store: str | None = None
    output: str | None = None
    output_file: Path | None = None
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    log_format: str = "console"
    color: bool = True
