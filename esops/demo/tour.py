"""The guided tour: a read model with a mistake in it is rebuilt under load, step by step.

Every command is shown before it runs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esops.demo.sandbox import READERS_QUERY, Sandbox, ShopProcess
from esops.errors import EsopsError

Say = Callable[[str], None]


def tour(directory: Path, say: Say, heading: Say, *, aside: bool = False) -> dict[str, Any]:
    """Run the tour in a fresh demo folder, and clean up. Returns what the shop noticed, in figures.

    `aside`: what the commands print goes to stderr, since stdout is for the figures alone. Raises
    EsopsError if a step fails.
    """
    with _Tour(Sandbox(directory, aside=aside), say, heading) as guide:
        guide.show_the_shop()
        guide.let_it_live()
        guide.deploy_and_rebuild()
        guide.switch_back_and_forth()
        return guide.sum_up()


class _Tour:
    """The chapters of the tour, in their order, and the processes that run beside them."""

    def __init__(self, sandbox: Sandbox, say: Say, heading: Say) -> None:
        self._sandbox, self._say, self._heading = sandbox, say, heading
        self._workload: list[ShopProcess] = []
        self._follower: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self._workload:
            each.process.kill()
        self._stop_following()
        self._sandbox.down()

    def show_the_shop(self) -> None:
        """Make the shop, and build its read model for the first time."""
        self._heading("1. A shop, its events, and a read model")
        self._say(
            f"An embedded PostgreSQL in {self._sandbox.folder.name}/ holds "
            f"{self._sandbox.history:,} events in Marten's tables."
        )
        self._sandbox.set_up(bug=True)
        self._say(
            "The read model cart_summary is a fold in Python (shop_projections.py). "
            "esops builds it for the first time:"
        )
        self._step("rebuild", "cart_summary", "--blue-green", "--quiet")

    def let_it_live(self) -> None:
        """Start what keeps the read model fresh, a writer, and readers."""
        self._heading(
            "2. Under load: orders come in, pages are read, `esops run` keeps the read model fresh"
        )
        self._follower = subprocess.Popen(
            [sys.executable, "-m", "esops", "run", "--quiet"], cwd=self._sandbox.folder, text=True
        )
        self._workload.append(self._sandbox.start("writer", "--rate", "100"))
        # A reader of each kind: a switch may break a statement that the driver has prepared.
        self._workload += [
            self._sandbox.start("reader", "--pause", "0.01", "--query", READERS_QUERY, *prepared)
            for prepared in ([], ["--prepared"])
        ]
        time.sleep(3)
        _, wrong = self._settled()
        self._say(
            f"The projection has a mistake: it ignores removed items. {wrong:,} carts show a wrong "
            "total."
        )

    def deploy_and_rebuild(self) -> None:
        """Deploy the fixed projection, and rebuild until the differences are accepted."""
        self._heading("3. The fixed projection is deployed, and rebuilt beside the one that serves")
        self._sandbox.deploy(bug=False)
        self._say(
            "The verification compares green with blue at one position, and does not switch when "
            "rows differ:"
        )
        self._step("rebuild", "cart_summary", "--blue-green", expected=1)
        self._say("\nThese are the rows that were wrong. We want them to differ, so we resume:")
        self._step("rebuild", "cart_summary", "--blue-green", "--resume", "--max-diff", "100%")

    def switch_back_and_forth(self) -> None:
        """Roll back to the old version, and switch to the new one again."""
        self._heading("4. Both versions stay fresh; each switch is one transaction")
        self._give_the_follower_time()
        self._step("projection", "show", "cart_summary")
        self._step("projection", "rollback", "cart_summary")
        self._step("projection", "switch", "cart_summary", "--to", "2")

    def sum_up(self) -> dict[str, Any]:
        """Stop the load, compare the read model with the events, and return the figures."""
        self._heading("5. What the shop noticed")
        reports = [each.stop() for each in self._workload]
        self._workload = []
        rows, wrong = self._settled()
        self._stop_following()
        self._step("projection", "retire", "cart_summary", "--yes")
        return _figures(reports, rows, wrong)

    def _step(self, *arguments: str, expected: int = 0) -> None:
        self._say(f"\n$ esops {' '.join(arguments)}")
        code = self._sandbox.esops(*arguments)
        if code != expected:
            raise EsopsError(
                f"`esops {' '.join(arguments)}` ended with exit code {code} in the demo, not "
                f"{expected}"
            )

    def _settled(self) -> tuple[int, int]:
        """Rows and wrong rows, once the read model has caught up.

        While the writer runs it never has quite, so this waits until the number of wrong rows no
        longer falls.
        """
        rows, wrong = self._sandbox.differences()
        for _ in range(40):
            time.sleep(0.1)
            again = self._sandbox.differences()
            if again[1] >= wrong:
                return again
            rows, wrong = again
        return rows, wrong

    def _give_the_follower_time(self) -> None:
        """`esops run` looks for new versions every second or two."""
        time.sleep(2.5)
        assert self._sandbox.server.running

    def _stop_following(self) -> None:
        if self._follower is not None:
            self._follower.terminate()
            self._follower.wait(20)
            self._follower = None


def _figures(reports: list[dict[str, Any]], rows: int, wrong: int) -> dict[str, Any]:
    writer = next(each for each in reports if each["who"] == "writer")
    readers = [each for each in reports if each["who"] == "reader"]
    return {
        "events_written": writer["events"],
        "slowest_append_seconds": writer["slowest_seconds"],
        "reads": sum(each["reads"] for each in readers),
        "failed_reads": sum(each["failures"] for each in readers),
        "steps_back": sum(each["steps_back"] for each in readers),
        "slowest_read_seconds": max(each["slowest_seconds"] for each in readers),
        "carts": rows,
        "wrong_carts": wrong,
    }
