"""The rate and the time left of a long job, by a clock that the test moves, and how many events a
load will have."""

from __future__ import annotations

import io
import re
from datetime import timedelta
from types import SimpleNamespace

import pytest
from rich.console import Console

from esops import term
from esops.cli.rebuild_operator import TerminalOperator
from esops.events import Position
from esops.rebuild.load.estimate import Load
from esops.rebuild.phases.loading import Loading
from esops.running.progress_reports import FIRST_PIECE, LEAST, MOST, ProgressReports
from esops.running.work import Progress
from esops.term import progress
from esops.term.pace import Pace
from esops.testing.memory import MemoryStore
from tests.support.waiting import until

TOTAL = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Job:
    """A job that reports ten times a second."""

    def __init__(self, done: int = 0) -> None:
        self.clock, self.done = Clock(), float(done)
        self.pace = Pace(done, self.clock)

    def work(self, seconds: float, rate: float) -> None:
        for _ in range(round(seconds * 10)):
            self.clock.now += 0.1
            self.done += rate / 10
            self.pace.update(round(self.done))

    def write(self, seconds: float) -> None:
        self.pace.beside()
        self.clock.now += seconds
        self.pace.update(round(self.done))

    def left(self) -> float:
        left = self.pace.left(TOTAL)
        assert left is not None
        return left


def near(expected: float):
    return pytest.approx(expected, rel=0.2)


def test_a_steady_job_is_right_from_the_first_second_on():
    job = Job()
    assert (job.pace.rate, job.pace.left(TOTAL)) == (0, None)
    job.work(1, 20_000)
    assert job.pace.rate == near(20_000)
    assert job.left() == near(49)
    job.work(30, 20_000)
    assert job.left() == near(19)


def test_a_resumed_job_counts_only_its_own_work():
    job = Job(done=900_000)
    job.work(2, 10_000)
    assert job.pace.rate == near(10_000)
    assert job.left() == near(8)


@pytest.mark.parametrize(("before", "after"), [(5_000, 50_000), (50_000, 2_000)])
def test_ten_seconds_after_a_change_of_speed_the_old_one_is_forgotten(before, after):
    job = Job()
    job.work(15, before)
    job.work(10.1, after)
    assert job.pace.rate == near(after)
    assert job.left() == near((TOTAL - job.done) / after)


def test_a_job_that_speeds_up_all_the_time_is_not_far_behind():
    job = Job()
    for second in range(40):
        job.work(1, 1_000 * (20 + second))
    assert job.pace.rate == near(59_000)


def test_a_pause_changes_neither_rate_nor_time_left():
    job = Job()
    job.work(12, 20_000)
    left = job.left()
    job.pace.pause()
    job.clock.now += 3600
    assert (job.pace.rate, job.left()) == (near(20_000), near(left))
    job.work(0.1, 20_000)
    assert (job.pace.rate, job.left()) == (near(20_000), near(left))


def test_a_rate_that_is_kept_by_resting_is_what_is_shown():
    job = Job()
    for _ in range(48):  # a slice in a moment, and then a rest
        job.work(0.1, 25_000)
        job.clock.now += 0.15
    assert job.pace.rate == near(10_000)


def test_writing_now_and_then_is_shared_out_over_the_job():
    job = Job()
    for _ in range(6):
        job.work(5, 20_000)
        job.write(5)
    # A second after the rows were written as in the moment before: half of all time is writing.
    assert job.pace.rate == near(10_000)
    job.work(5, 20_000)
    assert job.pace.rate == near(10_000)
    assert job.left() == near((TOTAL - job.done) / 10_000)


def test_long_steps_do_not_let_the_rate_fall_between_them():
    job = Job()
    for step in range(1, 6):
        job.clock.now += 4
        job.pace.update(step * 40_000)
    job.clock.now += 3.9
    assert job.pace.rate == near(10_000)
    job.clock.now += 60  # but one that hangs is seen
    assert job.pace.rate < 5_000


def test_work_that_was_lost_begins_the_rate_again():
    job = Job()
    job.work(12, 20_000)
    job.done = 100_000
    job.work(2, 10_000)
    assert job.pace.rate == near(10_000)


# -- how many events there will be


def test_what_a_filter_lets_through_is_estimated_from_what_is_read():
    load = Load(None, Position((1_000_000,)), 0, 1_000_000)
    assert load.total(0, None) == 1_000_000
    assert load.total(0, Position((10,))) == 1_000_000
    # A tenth of what is read passes.
    assert load.total(2_500, Position((25_000,))) == 100_000
    assert load.total(50_123, Position((500_000,))) == 101_000
    # Without a filter, and without numbers that are missing, it is exact.
    assert load.total(123_457, Position((123_457,))) == 1_000_000
    # Only the end is the end.
    assert load.total(123_457, Position((999_999,))) > 123_457
    assert load.total(99_500, Position((1_000_000,))) == 99_500


def test_what_was_loaded_before_is_no_part_of_the_estimate():
    load = Load(Position((600_000,)), Position((1_000_000,)), 300_000, 400_000)
    assert load.total(300_000, Position((600_000,))) == 700_000
    assert load.total(301_000, Position((604_000,))) == 400_000


def test_while_the_position_stays_so_does_the_estimate():
    """A spill is folded partition by partition, and the checkpoint stays where it began."""
    load = Load(None, Position((1_000_000,)), 0, 1_000_000)
    assert load.total(20_000, Position((100_000,))) == 200_000
    assert load.total(90_000, Position((100_000,))) == 200_000
    assert load.total(250_000, Position((100_000,))) == 250_000
    assert load.total(150_000, Position((500_000,))) == 300_000
    again = load.begun_again(MemoryStore("s"))
    assert (again.after, again.before) == (None, 0)
    assert [each.counted for each in load.shared(3)] == [333_334] * 3


def test_what_several_processes_do_is_shown_for_all_of_them():
    told = []
    reporter = SimpleNamespace(
        progress=lambda *what: told.append(what),
        doing=lambda what, *, paused: told.append((what, paused)),
    )
    rebuild = SimpleNamespace(
        _reporter=reporter,
        _shares=[],
        store=MemoryStore("s"),
        _open_throttle=lambda: SimpleNamespace(others_wait=lambda: None),
    )
    load = Load(None, Position((1_000,)), 0, 1_000)

    def report(*shards: Progress) -> None:
        Loading._report_shards(rebuild, load, shards)

    sorting = "sorting events into files, 10 of 500"
    report(Progress(100, Position((200,))), Progress(90, Position((190,)), sorting, True))
    report(Progress(200, Position((400,)), sorting, True), Progress(90, None, sorting, True))
    report(Progress(250, Position((500,))), Progress(240, Position((490,))))
    assert told == [(190, 1_000), (f"{sorting}, in each of 2 processes", True), (490, 1_000)]


# -- how often a runner tells


def test_what_is_applied_is_told_ten_times_a_second_and_what_is_committed_always():
    told, clock = [], Clock()
    telling = ProgressReports(told.append, clock=clock)
    for number in range(1, 101):
        clock.now += 0.01
        telling.applied(number, Position((number,)))
    assert 9 <= len(told) <= 10
    telling.committed(101, Position((101,)))
    telling.committed(102, Position((102,)))
    assert [each.events for each in told[-2:]] == [101, 102]
    telling.doing("writing rows")
    assert (told[-1].events, told[-1].doing) == (102, "writing rows")


@pytest.mark.parametrize(
    ("microseconds", "expected"), [(1, MOST), (50, 5_000), (1_000, 250), (100_000, LEAST)]
)
def test_a_piece_takes_a_quarter_of_a_second_however_slow_the_code_is(microseconds, expected):
    clock = Clock()
    telling = ProgressReports(lambda _: None, clock=clock)
    assert telling.most_at_once == FIRST_PIECE
    for _ in range(20):
        with telling.applying(telling.most_at_once):
            clock.now += telling.most_at_once * microseconds * 1e-6
    assert telling.most_at_once == pytest.approx(expected, rel=0.01)


def test_kinds_that_work_at_the_commit_commit_every_second():
    clock = Clock()
    telling = ProgressReports(lambda _: None, buffered=True, clock=clock)
    for _ in range(20):
        with telling.applying(telling.most_buffered):
            pass
        with telling.writing(telling.most_buffered):
            clock.now += telling.most_buffered * 0.001
    assert telling.most_buffered == 1_000


def test_the_time_of_the_start_does_not_count():
    """Of processes that import their modules, or of events that are sorted into files first."""
    clock = Clock()
    pace = Pace(0, clock)
    clock.now += 9
    pace.update(0)
    pace.beside()
    clock.now += 20
    pace.update(100)
    assert pace.left(10_000) is None
    for n in range(2, 12):
        clock.now += 0.1
        pace.update(100 * n)
    assert pace.rate == pytest.approx(1_000)
    assert pace.left(10_000) == pytest.approx(8.9, abs=0.1)


# -- what is shown


def test_a_terminal_sees_what_is_done_beside_applying_events(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock))
    shown = io.StringIO()
    output = term.Output()
    output.talk = Console(file=shown, force_terminal=True, width=120, color_system=None)
    line = output.progress("rebuild carts: events applied", 0, 1_000)
    line.update(500, 1_000)
    assert line.figures().startswith("500 of 1,000")
    line.phase("building keys and indexes")
    assert "for" not in line.figures()  # what is brief does not make the line jump
    clock.now += 0.6
    assert re.match(r"500 of 1,000  for 0\.\d s", line.figures())
    line.phase("building keys and indexes, 2 of 3")
    assert re.match(r"500 of 1,000  for 0\.[5-9] s|.* for [1-9]", line.figures())
    line.phase("gathering statistics")
    assert "for" not in line.figures()
    line.phase("building keys and indexes")
    clock.now += 0.7
    until(lambda: "rebuild carts: building keys and indexes" in shown.getvalue())
    line.close()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("name", ["carts", "parcel_status", "the_parcels_of_all_customers"])
def test_a_bar_takes_one_line_whose_figures_are_whole(width, name):
    shown = io.StringIO()
    output = term.Output()
    output.talk = Console(file=shown, force_terminal=True, width=width, color_system=None)
    line = output.progress(f"rebuild {name}: events applied", 0, 185_822, lambda: 34.0)
    line.update(13_750, 185_822)
    line.close()
    figures = line.figures()
    assert figures.endswith("about 34 s left")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    drawn = [each for each in re.split(r"\r|\n", plain) if each.strip()]
    # All that is drawn is whole lines, and nothing is carried over to another one.
    assert all(re.match("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] ", each) and len(each) <= width for each in drawn)
    assert figures in drawn[-1]
    assert name[:4] in drawn[-1]


def test_of_several_projections_the_slowest_says_how_long_it_takes():
    clock = Clock()
    operator = TerminalOperator(term.Output(), ["fast", "slow"], yes=False)
    fast, slow = Pace(0, clock), Pace(0, clock)
    operator._paces = {"fast": fast, "slow": slow}
    for n in range(1, 6):
        clock.now += 1
        operator.progress("fast", 1_000 * n, 10_000)
        assert operator._longest() is None
    for n in range(6, 11):
        clock.now += 1
        operator.progress("fast", 1_000 * n, 10_000)
        operator.progress("slow", 10 * n, 10_000)
    assert slow.rate > 0
    assert operator._longest() == pytest.approx(slow.left(10_000))
    assert operator._longest() > 500


def test_a_pipe_gets_lines_of_what_is_done_beside(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_EVERY", timedelta(0))
    said = io.StringIO()
    output = term.Output()
    output.talk = Console(file=said, force_terminal=False, width=200)
    line = output.progress("rebuild carts: events applied", 0, 1_000)
    line.phase("sorting events into files, 10 of 1,000", paused=True)
    assert said.getvalue() == "rebuild carts: sorting events into files, 10 of 1,000\n"
