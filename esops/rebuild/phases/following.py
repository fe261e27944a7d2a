"""Following: green keeps up with the writers until it is as fresh as the switch demands."""

from __future__ import annotations

import time
from datetime import timedelta

from esops.errors import Stopped
from esops.rebuild.phases.loading import Loading
from esops.running.runner import Runner
from esops.stores.base import settled
from esops.wording import count

_GLANCE = timedelta(milliseconds=50)
"""How long green, while it follows, waits for what is just being written. In a longer wait, as much
would be written again.
"""


class Following(Loading):
    """The steps in which green keeps up."""

    def _follow(self) -> None:
        """Keep up until the lag has been small twice in a row, or nothing is left."""
        with self._doing("keeping up with the writers"):
            self._follow_closely()

    def _follow_closely(self) -> None:
        runner = self._open_runner()
        small = 0
        # Twice, since one look may fall between two bursts of the writers.
        while small < 2:
            if self._stop():
                raise Stopped(f"stopped at position {runner.position}")
            runner.step(_GLANCE)
            head = self._head(_GLANCE)
            lag = self._behind(runner, head) if head is not None else 0
            if lag == 0:
                if self._may_stop_here(runner):
                    return
                continue
            # Whoever says `switch-now` does not want to wait for a small lag.
            near = lag <= self._options.switch_lag or self._open_throttle().look().switch_now
            small = small + 1 if near else 0
            if not small:
                self._say(f"following: {count(lag, 'event')} behind")
            elif small < 2:
                time.sleep(0.05)

    def _may_stop_here(self, runner: Runner) -> bool:
        """Whether green, at the settled head, is fresh enough.

        It is if nothing is held back, or if blue is not further either. Otherwise readers would
        miss events that blue has shown them, so following waits for what is held back.
        """
        if not self._held_back or self._all_applied:
            return True
        # What is visible by then is applied in the switch itself.
        if self.target.settings.live == "inline":
            return True
        # In place there is no blue: the version that serves is the one that is filled.
        blue = None if self.in_place else self._blue()
        if (
            blue is not None
            and blue.position is not None
            and not self._apart(blue)
            and runner.position is not None
            and runner.position >= blue.position
        ):
            self._say_once(
                "the newest events are not settled yet, because of "
                f"{self._held_back[0].in_words()}. Green is at {runner.position}, not behind "
                f"v{blue.version}, and applies them when they settle"
            )
            return True
        # This waits as long as the store says that events may take to settle.
        head, short = settled(self.store, runner.position, self._stop, self._say_once)
        if head is not None and (runner.position is None or head > runner.position):
            runner.run_until(head)
        if short is None:
            self._all_applied = True
        else:
            self._say_once(f"waiting: {short.message}")
        return False

    def _await_switch_now(self) -> None:
        """Keep up for as long as the switch is postponed, by an option or from another terminal."""
        throttle, said = self._open_throttle(), False
        while True:
            # Not half a second old: `postpone` may have been asked for just before the switch.
            request = throttle.look(now=True)
            if not (request.postponed or (self._options.postpone and not request.switch_now)):
                return
            if not said:
                self._say(
                    "the switch is postponed; green keeps up. Switch with: "
                    f"esops projection switch-now {self.target.name}"
                )
                said = True
            if self._stop():
                raise Stopped("stopped while the switch was postponed")
            self._keep_up()

    def _keep_up(self) -> None:
        self._open_throttle().wait()
        if not self._open_runner().step(timedelta(milliseconds=50)):
            time.sleep(0.1)
