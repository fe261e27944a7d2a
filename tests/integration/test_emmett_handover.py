"""The real Emmett, idle, stopped, killed and started again around a rebuild that hands over to its
processor: every event is applied once, and every processor starts.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from esops.errors import Refused
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, soak
from tests.support.waiting import DEADLINE, finish, kill, until

pytestmark = pytest.mark.xdist_group("real writers")  # they share what npm installs
HERE = Path(__file__).parent
NAME = "emt:processor:projector:applied"
FOLD = """
from esops import fold

@fold(key="stream")
def applied(row, event):
    return {"stream": event.stream, "events": (row["events"] if row else 0) + 1}
"""


class Application:
    """Writers and the projector of an application, as Emmett 0.42 runs them."""

    def __init__(self, folder: Path, uri: str, connection) -> None:
        self.folder, self.uri, self._connection = folder, uri, connection
        shutil.copy(HERE / "emmett_projector.mjs", folder)
        self.append(0)

    def append(self, appends: int, seed: int = 0) -> None:
        command = ["node", str(self.folder / "emmett_writer.mjs"), self.uri]
        subprocess.run([*command, str(seed), str(appends)], check=True, timeout=DEADLINE)

    def start(self, *arguments: str) -> subprocess.Popen:
        """A projector that goes on until `stop`; it has registered when this returns."""
        command = ["node", str(self.folder / "emmett_projector.mjs"), self.uri]
        started = subprocess.Popen(
            [*command, *(arguments or ("follow",))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = started.stdout.readline()
        assert line == "ready\n", started.communicate()
        # It says so in the transaction that registers it. One that is to stop may have stopped.
        if not arguments:
            until(lambda: (self.row() or ("", ""))[1] == "running")
        return started

    def stop(self, projector: subprocess.Popen) -> None:
        """Let it stop in order."""
        _, errors = finish(projector)
        assert projector.returncode == 0, errors
        assert self.row()[1] == "stopped"

    def run(self) -> None:
        """Start it, let it read all that there is, and stop it."""
        projector = self.start("idle")
        self.stop(projector)

    def row(self) -> tuple[str, str]:
        """The checkpoint and the status of the processor."""
        return self._connection.execute(
            "SELECT last_processed_checkpoint, status FROM emt_processors WHERE processor_id = %s",
            (NAME,),
        ).fetchone()

    def long_ago(self) -> None:
        """As though the processor had stored its checkpoint an hour ago."""
        self._connection.execute(
            "UPDATE emt_processors SET last_updated = now() - interval '1 hour'"
        )

    def applied(self) -> dict[str, int]:
        return dict(self._connection.execute("SELECT stream, events FROM applied").fetchall())

    def truth(self) -> dict[str, int]:
        return dict(
            self._connection.execute(
                "SELECT stream_id, count(*) FROM emt_messages GROUP BY 1"
            ).fetchall()
        )

    def caught_up(self) -> None:
        until(lambda: self.applied() == self.truth())


@pytest.fixture
def shop(dsn, connection, project, emmett_uri, emmett_writer):
    """An application whose projector has read all there is, and a projection of esops for it."""
    connection.execute("CREATE TABLE applied (stream text PRIMARY KEY, events int NOT NULL)")
    project.write("shop_projection.py", FOLD)
    project.patch(
        "import datetime, esops.rebuild.phases.switching as s\n"
        "s._STILLNESS = datetime.timedelta(seconds=0)\n"
    )
    project.configure(
        stores={"shop": {"dsn": dsn}},
        projections={
            "applied": {
                "store": "shop",
                "python": "shop_projection:applied",
                "tables": ["applied"],
                "switch": "rename",
                "live": "app",
                "checkpoint": NAME,
            }
        },
    )
    return Application(Path(emmett_writer).parent, emmett_uri, connection)


@pytest.mark.slow
def test_one_that_is_idle_is_not_taken_for_stopped(shop, project):
    rebuild = ("rebuild", "--blue-green")
    shop.append(5)
    projector = shop.start()
    shop.caught_up()
    shop.long_ago()
    # Idle for longer than Emmett's own threshold: it lives.
    refused = project.run(*rebuild)
    assert refused.code == 6
    assert "the status of its row is 'running', last updated" in refused.err
    assert "--resume --processor-stopped" in refused.err
    # Even where the operator is wrong, its own compare-and-set still finds the checkpoint.
    before = shop.row()[0]
    done = project.ok(*rebuild, "--resume", "--processor-stopped")
    assert f"handed over to the application: {NAME} at {before}" in done.err
    assert f"taken on your word (--processor-stopped): no process of {NAME} is left" in done.err
    assert "reads new events as a consumer does" in done.err
    assert shop.row()[0] == before
    shop.append(5, seed=1)
    shop.caught_up()
    finish(projector)
    shop.run()
    assert shop.applied() == shop.truth()


@pytest.mark.thorough
@pytest.mark.slow
def test_stopped_killed_and_started_again(shop, project):
    rebuild = ("rebuild", "--blue-green")
    shop.append(5)
    shop.run()
    # Stopped in order, and behind.
    shop.append(5, seed=2)
    project.ok(*rebuild, "--max-diff", "100%")
    shop.run()
    assert shop.applied() == shop.truth()
    # Killed, and behind.
    projector = shop.start()
    assert kill(projector)
    shop.append(5, seed=3)
    assert project.run(*rebuild, "--max-diff", "100%").code == 6
    project.ok(*rebuild, "--resume", "--processor-stopped", "--max-diff", "100%")
    shop.run()
    shop.append(5, seed=4)
    shop.run()
    assert shop.applied() == shop.truth()


@pytest.mark.thorough
@pytest.mark.slow
def test_handed_over_while_a_writer_is_at_work(shop, project):
    """Stopped, or killed in the middle of its work, again and again, without a pause for writers."""
    rounds = soak.rounds(1, 30)
    command = ["node", str(shop.folder / "emmett_writer.mjs"), shop.uri, "9", "1000000"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        for round in range(rounds):
            projector = shop.start()
            seen = sum(shop.applied().values())
            until(lambda seen=seen: sum(shop.applied().values()) > seen)
            rebuild = ["rebuild", "--blue-green", "--compare", "none"]
            if round % 2:
                shop.stop(projector)
            else:
                kill(projector)
                rebuild.append("--processor-stopped")
            done = project.ok(*rebuild)
            assert "again" not in done.err
    finally:
        assert kill(writer)
    shop.run()
    assert shop.applied() == shop.truth()


def test_the_processors_of_043_stand_at_messages(dumps, dsn, connection):
    """Over what 0.43 wrote, with a second partition, archived messages and commands: an idle
    processor keeps its checkpoint, and a registered one gets a pair that a message has.
    """
    emmett.restore(connection, (dumps / "emmett-0.43.0-beta.39.sql").read_text())
    connection.execute(emmett.STORE_CHECKPOINT)
    connection.execute(
        "INSERT INTO emt_processors (processor_id, status, last_processed_checkpoint, "
        "last_processed_transaction_id) VALUES ('new', 'stopped', '0000000000000000000', '0')"
    )
    # A rolled-back append has drawn the last number.
    connection.execute("SELECT nextval('emt_global_message_position')")
    rows = "SELECT processor_id, last_processed_checkpoint, last_updated FROM emt_processors"
    before = {name: (at, updated) for name, at, updated in connection.execute(rows).fetchall()}
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        head = store.head().position
        with pytest.raises(Refused, match="'mailer' may be at work"), connection.transaction():
            store.sql.set_checkpoint(connection, "mailer", head)
        for name in before:
            with connection.transaction():
                store.sql.set_checkpoint(connection, name, head, stopped=True)
    after = {name: (at, updated) for name, at, updated in connection.execute(rows).fetchall()}
    assert after["mailer"] == before["mailer"], "it stood at the last message"
    assert {at for at, _ in after.values()} == {before["mailer"][0]}
