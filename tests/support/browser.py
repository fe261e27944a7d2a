"""A page in a real browser without a window: what it looks like, what it says, what it tries to
fetch.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    def __init__(self, program: str, folder: Path) -> None:
        self.program, self._folder = program, folder

    def _run(self, page: Path, *more: str, dark: bool = False) -> subprocess.CompletedProcess[str]:
        command = [
            self.program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={self._folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=8000",
            "--window-size=1200,2400",
            *more,
            page.resolve().as_uri(),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    def document(self, page: Path, script: str = "") -> str:
        """The document once its scripts have run, and then `script`.

        Fails where the page complains of anything.
        """
        if script:
            text = page.read_text(encoding="utf-8").replace(
                "</body>", f"<script>{script}</script></body>"
            )
            page = self._folder / f"scripted-{page.name}"
            page.write_text(text, encoding="utf-8")
        done = self._run(page, "--dump-dom")
        complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert not complaints, complaints
        return done.stdout

    def picture(self, page: Path, to: Path, *, dark: bool = False) -> bytes:
        """A PNG of it."""
        self._run(page, f"--screenshot={to}", dark=dark)
        return to.read_bytes()


@pytest.fixture
def browser(tmp_path):
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser is installed (any of {', '.join(NAMES)})")
    return Browser(program, tmp_path)


def fetched(text: str) -> list[str]:
    """What a page outside of its scripts would fetch."""
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    return re.findall(r"""(?:src|href)\s*=\s*["'][^"']+|url\([^)]*\)|@import[^;]*""", outside)
