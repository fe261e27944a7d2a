"""The reader of bulk reads: one at a time, and none that is cut short looks complete."""

from __future__ import annotations

from contextlib import closing

import pytest

from esops.stores.postgres.bulk import BulkReader


def test_a_read_that_another_one_ended_says_so_and_ends_no_other(dsn):
    """As when what a search found is left half read and dropped later, while something else is
    read.
    """
    with closing(BulkReader(dsn, 1 << 10)) as reader:
        numbers = "SELECT generate_series(1, 100000)"
        first = reader.read(iter([numbers]))
        next(first)
        second = reader.read(iter([numbers]))
        next(second)
        with pytest.raises(RuntimeError, match="ended by another"):
            list(first)
        third = reader.read(iter([numbers]))
        rows = next(third).num_rows
        del first
        second.close()
        assert rows + sum(batch.num_rows for batch in third) == 100_000
        last = reader.read(iter([numbers]))
        next(last)
        reader.close()
        with pytest.raises(RuntimeError, match="ended by another"):
            list(last)
        assert sum(batch.num_rows for batch in reader.read(iter([numbers]))) == 100_000
