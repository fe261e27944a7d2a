"""`esops --help` against `python -c "import typer"`, as whole processes in turn.

Limit: at most 1.5 times.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS, LIMIT = 21, 1.5


def seconds(command: list[str]) -> float:
    # A command that is installed has been compiled.
    compiled = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=compiled)
    return time.perf_counter() - begin


def main() -> int:
    esops = [str(Path(sys.executable).with_name("esops")), "--help"]
    typer = [sys.executable, "-c", "import typer"]
    pairs = [(seconds(esops), seconds(typer)) for _ in range(RUNS)]
    ratio = statistics.median(first / second for first, second in pairs)
    help_, bare = (statistics.median(each) * 1000 for each in zip(*pairs, strict=True))
    print(
        f"esops --help {help_:.0f} ms, import typer {bare:.0f} ms: {ratio:.2f} times (median of "
        f"{RUNS} pairs, limit at most {LIMIT})"
    )
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
