"""Fixed code goes on in every way of loading: by ranges, in place, and by several processes."""

from __future__ import annotations

import pytest

from tests.support import shop

POISON = "    assert event.position[0] != {at}, 'poison'\n"


def configure(project, dsn, connection, code: str = shop.PROJECTION) -> int:
    """With an event late in the log that fails; its position."""
    (at,) = connection.execute(
        "SELECT max(seq_id) FROM shop.mt_events WHERE version = 5"
    ).fetchone()
    poison = POISON.format(at=at)
    shop.configure(project, dsn, code=code.replace("    at = event", poison + "    at = event"))
    return at


@pytest.mark.thorough
@pytest.mark.parametrize("workers", ["1", "2"])
def test_several_processes(workers, dsn, connection, project):
    shop.make(dsn, 300)
    configure(project, dsn, connection)
    arguments = ("rebuild", "--blue-green", "--workers", workers, "--batch-size", "10")
    stopped = project.run(*arguments)
    assert (stopped.code, "--resume --accept-code" in stopped.err) == (6, True)
    shop.configure(project, dsn)
    assert project.run("rebuild", "--blue-green", "--resume").code == 6
    done = project.ok("rebuild", "--blue-green", "--resume", "--accept-code")
    assert "made by the code before" in done.err
    shop.check_version(connection, 1)
    [version] = project.ok("projection", "show", "cart_summary", "--output", "json").json[
        "versions"
    ]
    assert len(version["accepted_code"]) == 1
    assert "older events" not in project.ok("run", "--until-caught-up").err


def test_ranges(dsn, connection, project):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    configure(project, dsn, connection)
    stopped = project.run("rebuild", "--yes", "--ranges", "3", "--batch-size", "10")
    assert (stopped.code, "rebuild cart_summary --resume --accept-code" in stopped.err) == (6, True)
    shop.configure(project, dsn)
    assert project.run("rebuild", "--resume").code == 6
    done = project.ok("rebuild", "--resume", "--accept-code")
    assert "made by the code before" in done.err
    shop.check_version(connection, 1)
    [version] = project.ok("projection", "show", "cart_summary", "--output", "json").json[
        "versions"
    ]
    # In other ranges all rows are the old code's: there is no position up to which they are.
    assert [each["position"] for each in version["accepted_code"]] == [None]
    assert "older events" not in project.ok("run", "--until-caught-up").err
