"""Records the README's picture: real commands on the demo's shop, under load, drawn by rich.

Run by `make picture`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from esops.demo.sandbox import Sandbox

TARGET = Path(__file__).parent / "rebuild.svg"
COMMANDS = [
    ("rebuild", "cart_summary", "--blue-green", "--max-diff", "100%"),
    ("projection", "show", "cart_summary"),
    ("projection", "rollback", "cart_summary"),
]


def main() -> None:
    """Record and write the SVG."""
    console = Console(record=True, width=120, file=Path("/dev/null").open("w"), force_terminal=True)
    with tempfile.TemporaryDirectory(prefix="esops-picture-") as directory:
        sandbox = Sandbox(Path(directory))
        sandbox.up()
        try:
            time.sleep(3)
            sandbox.deploy(bug=False)
            for command in COMMANDS:
                console.print(Text(f"$ esops {' '.join(command)}", style="bold green"))
                done = subprocess.run(
                    [sys.executable, "-m", "esops", *command],
                    cwd=sandbox.folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for line in done.stdout.splitlines():
                    console.print(Text(line, style="bold" if " serves v" in line else ""))
                console.print()
                time.sleep(3)
        finally:
            sandbox.down()
    TARGET.write_text(
        without_web_fonts(
            console.export_svg(title="a read model rebuilt under load", font_aspect_ratio=0.61)
        )
    )


def without_web_fonts(svg: str) -> str:
    """A picture in a README loads nothing from elsewhere: the reader's own monospace font does."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!-- Generated with.*?-->\s*", "", svg)
    return svg.replace("Fira Code", "ui-monospace, Menlo, Consolas")


if __name__ == "__main__":
    main()
