"""Packages from npm, for tests with other people's clients and libraries."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def from_npm(folder: Path, *packages: str) -> Path:
    """A folder with these packages in it; skips with the reason where they cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not on this machine")
    command = [
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(folder),
        *packages,
    ]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if installed.returncode:
        pytest.skip(f"npm could not install {packages[0]}: {installed.stderr.strip()[-200:]}")
    return folder
