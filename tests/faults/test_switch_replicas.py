"""What a switch does to readers of real replicas: it waits for those that it knows of, and names the
replicas that will replay its lock.
"""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest

from tests.support import shop
from tests.support.databases import ELSEWHERE, QUICK, embedded
from tests.support.waiting import finish, heard, until

FEEDBACK = {
    "hot_standby_feedback": "on",
    "wal_receiver_status_interval": "1s",
    "max_standby_streaming_delay": "100ms",
}


@pytest.mark.slow
def test_a_switch_waits_for_readers_of_replicas(project):
    if ELSEWHERE:
        pytest.skip("needs a server of its own")
    with ExitStack() as stack:
        primary = stack.enter_context(embedded(QUICK))
        shop.make(primary.dsn(), 50)
        shop.configure(project, primary.dsn())
        project.ok("rebuild", "--blue-green")
        replicas = {
            "walreceiver": stack.enter_context(primary.replica(FEEDBACK)),
            "of_reports": stack.enter_context(primary.replica(FEEDBACK, slot="of_reports")),
        }
        on = stack.enter_context(psycopg.connect(primary.dsn(), autocommit=True))
        until(
            lambda: on.execute(
                "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NOT NULL"
            ).fetchone() == (2,)
        )  # fmt: skip
        plan = project.ok("rebuild", "--blue-green", "--dry-run").out
        assert "2 replicas (of_reports, walreceiver) will replay the switch's lock" in plan
        for serves, (name, replica) in enumerate(replicas.items(), start=2):
            with psycopg.connect(replica.dsn(), application_name="report") as reader:
                reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                reader.execute("SELECT 1")
                refused = project.run("rebuild", "--blue-green", "--snapshot-wait", "3s")
                assert refused.code == 6, refused.err
                assert f"a reader on the replica {name}" in refused.err
                (other,) = set(replicas) - {name}
                assert other not in refused.err.partition("error:")[2]
                process = project.start("rebuild", "--blue-green", "--resume")
                heard(process, f"a reader on the replica {name}")
                # It had a snapshot only, which would have shown it no row of the new version.
                assert reader.execute("SELECT count(*) FROM cart_summary").fetchone() == (5,)
            _, err = finish(process)
            assert process.returncode == 0, err
            found = on.execute("SELECT active_version FROM esops.projections")
            assert found.fetchone() == (serves,)

        # As the plan says: whoever has locked the read model there loses against the replay.
        with (
            pytest.raises(
                psycopg.OperationalError,
                match="conflict with recovery|server closed the connection",
            ),
            psycopg.connect(replica.dsn()) as reader,
        ):
            reader.execute("SELECT count(*) FROM cart_summary")
            project.ok("rebuild", "--blue-green")
            until(lambda: reader.execute("SELECT 1").fetchone() is None)
