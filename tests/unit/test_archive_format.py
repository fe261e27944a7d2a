"""The archive's hashes are what docs/reference/archive-format.md says, however rows are cut into
batches.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops.archive_format.hashes import Content, digests
from esops.archive_format.schema import join_ids, schema_with, split_ids

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "archive-format.md"
SCHEMA = schema_with(["note", "region"])

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
times = st.none() | st.datetimes(datetime(1, 1, 1), datetime(9999, 1, 1)).map(
    lambda time: time.replace(tzinfo=UTC)
)
numbers = st.integers(-(2**62), 2**62)


@st.composite
def events(draw) -> list[dict]:
    """Rows of some streams.

    Half of the columns are often the same in all rows, which is hashed another way.
    """
    rows = []
    same = draw(st.booleans())
    kind, data, region = draw(texts), draw(st.binary(max_size=4)), draw(st.none() | texts)
    names = draw(
        st.lists(
            st.tuples(texts, st.sampled_from(["", "", "t"])), min_size=1, max_size=5, unique=True
        )
    )
    for stream, tenant in sorted(names):
        for version in range(draw(st.integers(1, 5))):
            identifier = draw(
                st.none()
                | st.uuids().map(str)
                | st.uuids().map(lambda uuid: str(uuid).upper())
                | texts
            )
            rows.append(
                {
                    "stream": stream,
                    "tenant": tenant,
                    "version": version,
                    "position_1": draw(numbers),
                    "position_2": draw(st.none() | numbers),
                    "type": kind if same else draw(texts),
                    "id": identifier,
                    "recorded_at": draw(times),
                    "data": data if same else draw(st.none() | st.binary(max_size=4)),
                    "metadata": None if same else draw(st.none() | st.binary(max_size=4)),
                    "hidden": draw(st.booleans()) and not same,
                    "x_note": None,
                    "x_region": region if same else draw(st.none() | texts),
                }
            )
    return rows


def batch_of(rows: list[dict]) -> pa.RecordBatch:
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA.names}
    ids, others = split_ids(pa.array(columns["id"], pa.string()))
    arrays = [
        ids
        if name == "id"
        else others
        if name == "id_text"
        else pa.array(columns[name], SCHEMA.field(name).type)
        for name in SCHEMA.names
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def cut(rows: list[dict], at: list[int]) -> list[pa.RecordBatch]:
    ends = sorted({0, len(rows), *(end % (len(rows) + 1) for end in at)})
    return [batch_of(rows[low:high]) for low, high in pairwise(ends)]


def documented(rows: list[dict]) -> dict[tuple[str, str], bytes]:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    batch = batch_of(rows)
    at = SCHEMA.get_field_index("recorded_at")
    plain = batch.set_column(at, "recorded_at", batch.column(at).cast(pa.int64())).to_pylist()
    streams = dict.fromkeys((row["stream"], row["tenant"]) for row in plain)
    return {
        key: names["sha256_of"](
            *key, [row for row in plain if (row["stream"], row["tenant"]) == key], SCHEMA.names
        )
        for key in streams
    }


@given(events(), st.lists(st.integers(0, 100), max_size=6), st.integers(0, 3))
def test_a_streams_hash_is_as_documented_and_does_not_depend_on_batches(rows, at, before):
    batches = cut(rows, at)
    # As a slice of something larger, rows lie elsewhere in their buffers.
    batches = [
        pa.concat_batches([batch_of(rows[:before]), batch]).slice(len(rows[:before]))
        for batch in batches
    ]
    found = list(digests(batches))
    assert {digest.key: digest.sha256 for digest in found} == documented(rows)
    for digest in found:
        own = [row for row in rows if (row["stream"], row["tenant"]) == digest.key]
        assert digest.events == len(own)
        assert (digest.first_version, digest.last_version) == (
            own[0]["version"],
            own[-1]["version"],
        )
        assert digest.size == sum(
            len(row["data"] or b"") + len(row["metadata"] or b"") for row in own
        )
        for micros, row in ((digest.first_at, own[0]), (digest.last_at, own[-1])):
            assert (
                micros
                == pa.scalar(row["recorded_at"], pa.timestamp("us", "UTC")).cast(pa.int64()).as_py()
            )


@given(events(), st.lists(st.integers(0, 100), max_size=6), st.data())
def test_what_rows_hold_is_hashed_whole_and_however_they_are_cut(rows, at, data):
    def content(batches) -> bytes:
        found = Content()
        for batch in batches:
            found.add(batch)
        return found.digest()

    whole = content([batch_of(rows)])
    assert content(cut(rows, at)) == whole
    row, name = (
        data.draw(st.sampled_from(rows)),
        data.draw(st.sampled_from([n for n in SCHEMA.names if n != "id_text"])),
    )
    before = row[name]
    other = {"id": str(UUID(int=7)), "recorded_at": datetime(2000, 1, 1, 1, 1, 1, 7, UTC)}
    if SCHEMA.field(name).type == pa.int64():
        row[name] = (before or 0) + 1
    elif name == "hidden":
        row[name] = not before
    else:
        row[name] = other.get(
            name, b"another" if SCHEMA.field(name).type == pa.binary() else "another"
        )
    if row[name] != before:
        assert content([batch_of(rows)]) != whole


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ids_are_split_one_by_one_and_joined_as_they_were(size):
    plain = [
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "3F2504E0-4F89-41D3-9A0C-0305E82C3301",
        "order-7",
        "",
        "------------------------------------",
    ]
    for at in range(len(plain)):
        some = (plain * 2)[at : at + size]
        rows = [
            {
                "stream": "s",
                "tenant": "",
                "version": 1,
                "position_1": 1,
                "type": "t",
                "hidden": False,
                "id": each,
            }
            for each in some
        ]
        batch = batch_of(rows)
        assert join_ids(batch) == some
        assert [each is not None for each in batch.column("id").to_pylist()] == [
            each == plain[0] for each in some
        ]
