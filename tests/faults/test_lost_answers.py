"""Each thing that a rebuild has the database do is done, and its answer is lost with the
connection: done again, it does no harm.
"""

from __future__ import annotations

import os

import pytest

from tests.faults.test_kill_ways import EVENTS, KILLED, WAYS, of_kind
from tests.integration import test_external as external
from tests.support import shop
from tests.support.cases import thorough_in

pytestmark = pytest.mark.slow
LOSING = """
import esops.rebuild.session as session
import esops.stores.outage as outage
import time, types
from esops.errors import ConnectionLost

# The database is there all the time: nobody waits for it.
outage.time = types.SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None)

before, lost = session.Session.do, set()

def do(self, work):
    code = getattr(work, "__code__", None)
    place = (code.co_filename, code.co_firstlineno) if code else repr(work)

    def once(connection):
        done = work(connection)
        if (self._projection, place) not in lost:
            lost.add((self._projection, place))
            raise ConnectionLost("the answer is lost")
        return done

    return before(self, once)

session.Session.do = do
"""


@pytest.mark.parametrize(
    "way",
    # What `make test` kills needs no second look there.
    thorough_in(("fold", *WAYS), ("fold", *KILLED)),
)
def test_every_answer_is_lost_once(way, dsn, connection, project):
    shop.make(dsn, EVENTS)
    try:
        how = (
            of_kind(project, dsn, connection, "fold")
            if way == "fold"
            else WAYS[way](project, dsn, connection)
        )
        project.write("sitecustomize.py", LOSING)
        path = project.environment.get("PYTHONPATH")
        project.environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(project.folder), path])
        )
        begin = [word for word in how.begin if word not in {"--max-rate", "5000"}]
        done = project.ok(*begin)
        assert done.err.count("the answer is lost") >= 5
        project.environment["PYTHONPATH"] = path or ""
        assert connection.execute("SELECT count(*) FROM esops.shards").fetchone() == (0,)
        if how.caught_up:
            project.ok("run", "--until-caught-up")
        how.check()
        names = {
            name for (name,) in connection.execute("SELECT state FROM esops.rebuilds").fetchall()
        }
        assert names <= {"switched", "rebuilt"}
    finally:
        external.Application(dsn, project.folder).stop_all()
