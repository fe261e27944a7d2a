"""A long series of random stores, from the command line; see the package."""

from __future__ import annotations

import argparse
import logging
import sys
import time

import structlog

from tests.support.databases import QUICK, database, embedded
from tests.support.random_stores.runs import Trials


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.support.random_stores", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="stores in all")
    parser.add_argument("--seed", type=int, default=1, help="of the first store")
    parser.add_argument("--failures", type=int, default=10, help="stop after so many")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    begin, failed = time.monotonic(), 0
    with embedded(QUICK) as server, database(server) as dsn:
        trials = Trials(dsn)
        for seed in range(asked.seed, asked.seed + asked.count):
            wrong = trials.failure(seed)
            if wrong is not None:
                failed += 1
                print(f"FAILED {wrong}", flush=True)
            if failed >= asked.failures:
                break
        trials.close()
    for name, count in sorted(trials.counts.items()):
        print(f"    {name}: {count}")
    print(f"{failed} of {asked.count} failed, in {time.monotonic() - begin:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
