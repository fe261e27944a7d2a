"""`esops archive run` (export, read back, hashed, compared with the store) against a dump that is
compressed and hashed.

Limits (docs/explanation/speed.md), for 1,000,000 events: export and verification (from the end of
the selection to all being read back,
compared and sealed) at most 1.3 times the wall time of `COPY (… ORDER BY stream, version) | zstd
-3` followed by `zstd -d | sha256sum`; the
time of the whole command is told beside it; a result no larger; memory at 4,000,000 events at most
1.1 times that at
2,000,000. Prints the figures; exits with 1 if a limit is not kept. Takes the `zstd` command.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks.rebuild import timed
from esops.demo import store
from esops.demo.server import EmbeddedServer

RUNS = 3
TIME_LIMIT, SIZE_LIMIT, MEMORY_LIMIT = 1.3, 1.0, 1.1
EVENTS = 1_000_000
MEMORY_AT = (2_000_000, 4_000_000)


def dump(server: EmbeddedServer, folder: Path, schema: str) -> tuple[float, int]:
    """Seconds and bytes of the dump by hand."""
    target = folder / "dump.zst"
    copy = f"COPY (SELECT * FROM {schema}.mt_events ORDER BY stream_id, version) TO STDOUT"
    script = (
        f'set -o pipefail; "{server.program("psql")}" "{server.dsn()}" -qc "{copy}" | zstd -q -3 '
        f"-f -o {target}; "
        f"zstd -qdc {target} | sha256sum"
    )
    began = time.monotonic()
    subprocess.run(["bash", "-c", script], check=True, capture_output=True)
    return time.monotonic() - began, target.stat().st_size


class Ran(NamedTuple):
    """A run that keeps the store as it is: seconds of the whole process, and of export and
    verification; bytes; peak memory in MB.
    """

    whole: float
    export: float
    size: int
    memory: float


def archive(folder: Path, dsn: str, schema: str, events: int, file_size: int = 32 << 20) -> Ran:
    """Archive all streams."""
    shutil.rmtree(folder / "cold", ignore_errors=True)
    (folder / "esops.toml").write_text(
        f'[stores.s]\ndsn = {json.dumps(dsn)}\nschema = "{schema}"\nappend = "quick"\n'
        '[archives.cold]\nrepository = "cold"\n'
        f'file_size = {file_size}\n[archives.cold.policies.all]\ncategory = "cart"\n'
    )
    told = folder / "log"
    script = (
        f'exec "{sys.executable}" -m esops archive run all --log-format json --output '
        "json 2> "
        f'"{told}"'
    )
    seconds, memory, output = timed(["sh", "-c", script], folder)
    done = json.loads(output)
    assert (done["state"], done["events"]) == ("verified", events), done
    lines = [json.loads(line) for line in told.read_text().splitlines() if line.startswith("{")]
    at = {
        line["event"]: datetime.fromisoformat(line["timestamp"])
        for line in lines
        if line["event"] in {"exporting", "verified"}
    }
    return Ran(
        seconds, (at["verified"] - at["exporting"]).total_seconds(), done["stored_bytes"], memory
    )


def main() -> int:
    if shutil.which("zstd") is None:
        sys.exit("this takes the zstd command")
    folder = Path(tempfile.mkdtemp(prefix="esops-bench-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg").start()
    try:
        return measure(server, folder)
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)


LARGER = """
INSERT INTO larger.mt_streams SELECT * FROM s{events}.mt_streams;
INSERT INTO larger.mt_events (seq_id, id, stream_id, version, data, type, "timestamp", tenant_id,
mt_dotnet_type, is_archived)
SELECT row_number() OVER (ORDER BY version * 10 + r), id, stream_id, version,
    data || jsonb_build_object('note', md5(r::text) || ' left at the door ' || md5((r + 1)::text),
    'channel', 'web',
        'address', jsonb_build_object('street', md5((r + 2)::text) || ' street', 'city',
        'Springfield', 'zip', (r * 100000)::int)),
    type, "timestamp", tenant_id, mt_dotnet_type, is_archived
FROM (SELECT *, random() * 100 AS r FROM s{events}.mt_events) AS e ORDER BY 1
"""
"""The same streams, begun over the whole time instead of one after the other, with events of some
300 bytes.
"""


def measure(server: EmbeddedServer, folder: Path) -> int:
    """Print the figures; returns 1 if a limit is not kept."""
    dsn = server.dsn()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for events in (EVENTS, *MEMORY_AT):
            store.create(connection, f"s{events}")
            store.generate(connection, events, f"s{events}", window=2_000)
        store.create(connection, "larger")
        connection.execute(LARGER.format(events=EVENTS).encode())
        connection.execute("VACUUM ANALYZE")
    kept = True
    for what, schema in (
        ("small events, streams one after the other", f"s{EVENTS}"),
        ("300 bytes, streams side by side", "larger"),
    ):
        pairs = []
        for _ in range(RUNS):
            by_hand, size_by_hand = dump(server, folder, schema)
            ran = archive(folder, dsn, schema, EVENTS)
            pairs.append((ran.export / by_hand, ran.size / size_by_hand, ran.whole / by_hand))
            print(
                f"esops {ran.export:.2f} s ({ran.whole:.2f} s with start-up and selection), "
                f"{ran.size / 1e6:.1f} MB; "
                f"by hand {by_hand:.2f} s, {size_by_hand / 1e6:.1f} MB",
                flush=True,
            )
        slower, larger, whole = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(
            f"{what}: export and verification {slower:.2f} x by hand (limit {TIME_LIMIT}), the "
            f"whole command {whole:.2f} x, "
            f"size {larger:.2f} x (limit {SIZE_LIMIT})",
            flush=True,
        )
        kept = kept and slower <= TIME_LIMIT and larger <= SIZE_LIMIT
    # Files of 4 MiB, so that the smaller run, too, fills all buffers; and long enough that the
    # allocator has its free lists.
    fewer, more = (
        statistics.median(
            archive(folder, dsn, f"s{events}", events, 4 << 20).memory for _ in range(3)
        )
        for events in MEMORY_AT
    )
    growth = more / fewer
    print(f"memory {growth:.2f} x ({more:.0f} MB, {fewer:.0f} MB; limit {MEMORY_LIMIT})")
    return int(not kept or growth > MEMORY_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
