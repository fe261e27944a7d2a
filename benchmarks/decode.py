"""`schema decode` with a trivial Python function against a bare loop over the same events, as a
ratio; the part of distinct shapes by itself; and its memory, against that of a sixth of the events.

    python -m benchmarks.decode --events 1000000
    python -m benchmarks.decode --dsn "service=evolved"

The loop reads with the store's own `read_all` and calls the same function. Both take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.schema_check import evolved
from esops.schema.decode.request import DecodeHooks, DecodeReport, DecodeRequest
from esops.schema.decode.run import decode
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.stores.base import WITH_ARCHIVED

LIMIT = 0.7
"""Of the bare loop's rate, without the part of distinct shapes."""
CODES = {
    "nothing": "def decode(event):\n    return event.data\n",
    "json": "def decode(event):\n    return event.json()\n",
}
MEMORY = """
import resource, sys
from esops.cli.app import main
try:
    main(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""


def bare(settings: PostgresSettings, code: str) -> float:
    names: dict[str, object] = {}
    exec(code, names)
    function = names["decode"]
    began = time.perf_counter()
    with open_store("evolved", settings) as store:
        for events, _ in store.read_all(filter=WITH_ARCHIVED):
            for event in events:
                function(event)  # type: ignore[operator]
    return time.perf_counter() - began


def decoded(settings: PostgresSettings, folder: Path, name: str) -> tuple[float, DecodeReport]:
    began = time.perf_counter()
    with open_store("evolved", settings) as store:
        found = decode(store, settings, DecodeRequest(folder, f"{name}_code:decode"), DecodeHooks())
    assert not found.findings
    return time.perf_counter() - began, found


def memory(dsn: str, folder: Path, *more: str) -> int:
    """Of the process that reads, in MB."""
    text = f'[stores.evolved]\ndsn = {json.dumps(dsn)}\nschema = "evolved"\nappend = "quick"\n'
    (folder / "esops.toml").write_text(text)
    command = [sys.executable, "-c", MEMORY, "schema", "decode", "--python", "json_code:decode"]
    done = subprocess.run([*command, *more], cwd=folder, capture_output=True, text=True, check=True)
    return int(done.stderr.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dsn", help="a database that has such a store already")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as place, evolved(options.dsn, options.events) as dsn:
        folder = Path(place)
        settings = PostgresSettings(dsn=dsn, schema="evolved", append="quick")
        for name, code in CODES.items():
            (folder / f"{name}_code.py").write_text(code)
            by_hand, all_events, shapes = [], [], []
            for _ in range(options.rounds):
                by_hand.append(bare(settings, code))
                whole, found = decoded(settings, folder, name)
                all_events.append(found.seconds["all_events"])
                shapes.append(found.seconds["shapes_read"] + found.seconds["shapes_decoded"])
            ratio = statistics.median(by_hand) / statistics.median(all_events)
            failed |= ratio < LIMIT
            print(
                f"{name}: {found.events:,} events, bare loop {statistics.median(by_hand):.2f} s, "
                f"all events {statistics.median(all_events):.2f} s ({ratio:.2f} x the rate, at "
                f"least {LIMIT}), {found.shapes} shapes {statistics.median(shapes):.2f} s, "
                f"of which decoding {found.seconds['shapes_decoded']:.2f} s; last run {whole:.2f} s"
            )
        one, all_ = memory(dsn, folder, "--category", "order"), memory(dsn, folder)
        print(f"memory: {all_} MB; {one} MB for a sixth of the events")
    sys.exit(failed)


if __name__ == "__main__":
    main()
