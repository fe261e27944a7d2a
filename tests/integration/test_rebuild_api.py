"""Everything that `esops rebuild` and `esops projection` do can be done from Python."""

from __future__ import annotations

import decimal
import sys
from threading import Event

import pytest

from esops.config import load_config
from esops.errors import Refused, Stopped, UsageError
from esops.rebuild import lifecycle
from esops.rebuild.api import Operator, RebuildRequest, RebuildsFailed, plan, rebuild
from esops.rebuild.overview import describe, overview
from esops.running import control
from tests.support import shop


class Recorder(Operator):
    """Remembers what it is told, and refuses what `refuse` names."""

    def __init__(self, refuse=()):
        self.plans, self.messages, self.last, self.refuse = [], [], {}, refuse

    def planned(self, plan):
        self.plans.append(plan)

    def message(self, projection, text):
        self.messages.append((projection, text))

    def progress(self, projection, done, total):
        self.last[projection] = (done, total)

    def confirm_abort(self, projections):
        if "abort" in self.refuse:
            raise Refused("no")

    def confirm_in_place(self, plan):
        if "in place" in self.refuse:
            raise Refused("no")


@pytest.fixture
def config(dsn, project, monkeypatch):
    shop.make(dsn, 500)
    shop.configure(project, dsn)
    # A projection's module stays imported in this process; other tests have one of the same name.
    monkeypatch.delitem(sys.modules, "shop_projections", raising=False)
    yield load_config(project.folder / "esops.toml")
    sys.modules.pop("shop_projections", None)


def test_plan_rebuild_switch_roll_back_and_retire(config, connection):
    [planned] = plan(config)
    assert (planned.as_dict()["to_version"], planned.as_dict()["events"]) == (1, 500)
    assert planned.lines() > planned.lines(statements=False)
    assert connection.execute("SELECT to_regclass('esops.rebuilds')").fetchone() == (None,)

    operator = Recorder()
    [first] = rebuild(config, ["cart_summary"], operator=operator)
    assert (first.state, first.to_version, first.events, first.findings) == (
        "switched",
        1,
        500,
        False,
    )
    assert [each.as_dict()["to_version"] for each in operator.plans] == [1]
    assert {name for name, _ in operator.messages} == {"cart_summary"}
    assert operator.last["cart_summary"] == (500, 500)
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 500)

    [second] = rebuild(config, request=RebuildRequest(switch=False, compare="counts"))
    assert (second.state, second.verification["method"]) == ("verified", "counts")
    assert describe(config, "cart_summary")["active"] == 1
    assert lifecycle.switch_to(config, "cart_summary", dry_run=True).statements
    assert lifecycle.switch_to(config, "cart_summary").to_version == 2
    assert [each["active"] for each in overview(config)] == [2]
    assert lifecycle.roll_back(config, "cart_summary").to_version == 1
    assert lifecycle.retirable(config, "cart_summary").versions == [2]
    assert lifecycle.retire(config, "cart_summary", 2)
    assert connection.execute("SELECT to_regclass('cart_summary__v2')").fetchone() == (None,)


def test_the_program_calculates_afterwards_as_before(config, connection):
    with decimal.localcontext() as context:
        # Too coarse for the totals of the carts, which are not the program's.
        context.prec = 2
        plan(config)
        rebuild(config)
        assert decimal.getcontext() is context
        assert context.prec == 2
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 500)


def test_a_rebuild_is_stopped_resumed_and_aborted(config):
    rebuild(config)
    stop = Event()

    class Stopper(Recorder):
        def message(self, projection, text):
            stop.set()

    with pytest.raises(Stopped):
        rebuild(config, operator=Stopper(), stop=stop.is_set)
    with pytest.raises(Refused, match="not finished"):
        rebuild(config)
    with pytest.raises(UsageError, match="was begun with --blue-green") as wrong:
        rebuild(config, request=RebuildRequest(action="abort", in_place=True))
    assert "esops rebuild cart_summary --blue-green --abort" in wrong.value.hint
    with pytest.raises(Refused, match="no"):
        rebuild(config, request=RebuildRequest(action="abort"), operator=Recorder(["abort"]))
    [resumed] = rebuild(config, request=RebuildRequest(action="resume", switch=False))
    assert (resumed.state, resumed.to_version) == ("verified", 2)
    with pytest.raises(UsageError, match="no unfinished rebuild"):
        rebuild(config, request=RebuildRequest(action="abort"))


def test_in_place_asks_before_it_empties(config, connection):
    rebuild(config)
    request = RebuildRequest(in_place=True)
    with pytest.raises(Refused, match="no"):
        rebuild(config, request=request, operator=Recorder(["in place"]))
    operator = Recorder()
    [outcome] = rebuild(config, request=request, operator=operator)
    assert (outcome.state, outcome.from_version, outcome.to_version) == ("rebuilt", 1, 1)
    assert "TRUNCATE" in "\n".join(operator.plans[0].lines())
    assert shop.table(connection, "cart_summary") == shop.truth(connection, 500)


def test_what_another_process_asks_for_holds(config):
    assert control.ask(config, "cart_summary", paused=True, limits={"nice": 1.0}).paused
    now = control.ask(config, "cart_summary", paused=False, limits={"nice": None})
    assert now.as_dict() == {
        "paused": False,
        "postponed": False,
        "switch_now": False,
        "limits": {},
    }


@pytest.mark.parametrize(
    "asked",
    [
        {"in_place": True, "compare": "exact"},
        {"in_place": True, "switch": False},
        {"ranges": 4},
        {"test_only": True, "postpone": True},
        {"max_diff": "some"},
    ],
)
def test_what_contradicts_itself_is_refused_at_once(asked):
    with pytest.raises(UsageError):
        RebuildRequest(**asked)


def test_the_worst_error_of_several_gives_the_exit_code():
    failed = RebuildsFailed([], {"a": Stopped("paused"), "b": Refused("no", hint="fix it")})
    assert (failed.exit_code, failed.hint, set(failed.errors)) == (6, "fix it", {"a", "b"})
    assert "2 of 2 rebuilds" in failed.message


@pytest.mark.thorough
def test_the_hints_of_a_poisoned_rebuild_lead_out_of_it(dsn, project):
    shop.make(dsn, 500)
    poisoned = shop.PROJECTION.replace(
        "def cart_summary(row, event):",
        "def cart_summary(row, event):\n    assert event.position != (400,)",
    )
    assert poisoned != shop.PROJECTION
    shop.configure(project, dsn, code=poisoned)
    stopped = project.run("rebuild", "--blue-green")
    assert stopped.code == 6
    assert "`esops rebuild cart_summary --blue-green --abort`" in stopped.err

    project.write("shop_projections.py", shop.PROJECTION)
    refused = project.run("rebuild", "cart_summary", "--blue-green", "--resume")
    assert refused.code == 6
    assert "--abort" in refused.err
    wrong = project.run("rebuild", "cart_summary", "--abort")
    assert wrong.code == 2
    assert "hint: Run: esops rebuild cart_summary --blue-green --abort" in wrong.err
    project.ok("rebuild", "cart_summary", "--blue-green", "--abort", "--yes")
    project.ok("rebuild", "cart_summary", "--blue-green")


def test_run_says_what_is_not_built_yet(dsn, project):
    shop.make(dsn, 10)
    shop.configure(project, dsn)
    for command in (["run"], ["run", "cart_summary"]):
        result = project.run(*command, "--until-caught-up")
        assert result.code == 2
        assert "hint: Build it with: esops rebuild cart_summary --blue-green" in result.err
    project.ok("rebuild", "--blue-green")
    done = project.ok("run", "--until-caught-up")
    assert "1 version caught up" in done.err
    assert "hint=" not in done.err


def test_a_session_that_was_lost_while_the_plan_waited_for_its_answer_is_opened_again(
    config, connection
):
    class Slow(Recorder):
        def end_sessions(self):
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE application_name LIKE 'esops % plan %'"
            )

        def planned(self, plan):
            self.end_sessions()

    rebuild(config, operator=Slow())
    [again] = rebuild(config, request=RebuildRequest(in_place=True), operator=Slow())
    assert shop.check_version(connection, 1) == 50
    assert again.events == 500
