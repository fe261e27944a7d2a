"""A long series of histories, from the command line; see the package."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import structlog

from tests.support.databases import QUICK, embedded
from tests.support.histories.plans import THEMES, history
from tests.support.histories.runs import failure, smaller, staged
from tests.support.histories.tables import LAYOUTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.support.histories", description=__doc__)
    parser.add_argument("--layout", choices=list(LAYOUTS), action="append")
    parser.add_argument("--count", type=int, default=100, help="histories in all")
    parser.add_argument("--seed", type=int, default=1, help="of the first history")
    parser.add_argument("--shrink", type=float, default=40.0, help="seconds for each failure")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many in a layout")
    parser.add_argument("--without", action="append", default=[], help="a theme to leave out")
    parser.add_argument("--only", action="append", help="a theme; the others are left out")
    asked = parser.parse_args()
    themes = [each for each in asked.only or THEMES if each not in asked.without]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    layouts = asked.layout or list(LAYOUTS)
    ran, failed, jobs, refusals = Counter(), Counter(), Counter(), Counter()
    begin = time.monotonic()
    with embedded(QUICK) as server, tempfile.TemporaryDirectory() as folder:
        with staged(server, Path(folder)) as stage:
            for number in range(asked.count):
                layout = layouts[number % len(layouts)]
                seed = asked.seed + number // len(layouts)
                if failed[layout] >= asked.failures:
                    continue
                one = history(LAYOUTS[layout], seed, themes=themes)
                ran[layout] += 1
                if ran.total() % 20 == 0:
                    print(f"{ran.total()} histories", file=sys.stderr, flush=True)
                wrong = failure(stage, one)
                if wrong is not None:
                    failed[layout] += 1
                    small, still = smaller(stage, one, asked.shrink)
                    print(f"FAILED {wrong}\n{small}\n    -> {still or 'not again'}\n", flush=True)
            for layout in ran:
                made = stage._worlds[layout][1]
                jobs.update(made.counts)
                refusals.update(made.refusals)
    seconds = time.monotonic() - begin
    print(f"{sum(ran.values())} histories in {seconds:.0f} s")
    for layout, count in ran.items():
        print(f"    {layout}: {count}, {failed[layout]} failed")
    print(f"    jobs: {dict(sorted(jobs.items()))}")
    print(f"    refused by: {dict(refusals.most_common())}")
    return 1 if failed.total() else 0


if __name__ == "__main__":
    sys.exit(main())
