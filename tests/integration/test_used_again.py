"""Names of streams that are used again after their streams were archived: two lives of one name."""

from __future__ import annotations

import pytest

from tests.integration.test_archive import of, write
from tests.support import emmett

RUN = ("archive", "run", "old", "--output", "json")
POLICY = 'store = "s"\nstream = "*"\nremove = "{}"'


@pytest.mark.parametrize("removal", ["archive", "delete"])
def test_a_second_life_is_archived_once_and_named_by_each_run(project, dsn, connection, removal):
    emmett.create(connection)
    emmett.append(connection, "cart-1", "opened", "added", "closed")
    emmett.append(connection, "cart-2", "opened")
    write(project, of(dsn, more=""), POLICY.format(removal))
    first = project.ok(*RUN).json
    assert (first["removed"], first["removed_events"]) == (2, 4)
    emmett.append(connection, "cart-1", "opened", "added")
    second = project.run(*RUN)
    assert (second.code, second.json["events"], second.json["stuck"]) == (1, 2, 1)
    assert "the name was used again" in second.json["skipped"][0]["reason"]
    for _ in range(2):
        again = project.run(*RUN)
        assert (again.code, again.json["run"], again.json["stuck"]) == (1, None, 1)
    assert len(project.ok("archive", "list", "--output", "json").json) == 2
    # The life that is archived goes away: nothing is in the way of the other one.
    connection.execute("DELETE FROM emt_messages WHERE is_archived")
    connection.execute("DELETE FROM emt_streams WHERE is_archived")
    last = project.ok(*RUN).json
    assert (last["removed"], last["removed_events"], last["stuck"]) == (1, 2, 0)
