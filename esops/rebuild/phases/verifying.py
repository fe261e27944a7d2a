"""Verifying: compare green with blue at one position, and ask the user's assertions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

from esops.errors import Stopped
from esops.readmodel.registry import Version
from esops.rebuild.phases.following import Following
from esops.rebuild.verification.comparer import (
    LOOK_EVERY_SECONDS,
    BetweenLooks,
    processors_behind,
    processors_reached,
)
from esops.rebuild.verification.result import Verification, not_compared, tolerated
from esops.running.runner import Runner
from esops.running.visible import VisibleEvents


class Verifying(Following):
    """The step that decides whether the switch may take place."""

    def _verify(self) -> bool:
        """Compare and ask the assertions; returns whether the differences are within what the
        options allow.
        """
        runner = self._open_runner()
        self._look_for_lost(runner)
        self._build(runner)
        blue = self._blue()
        # There is always a result in the journal, even one that says that nothing was compared.
        if blue is None or self._options.compare == "none":
            note = "nothing served before" if blue is None else None
            rows = self._green().rows or 0
            self._keep_verification(not_compared(rows, str(runner.position), note))
        elif self._must_compare(blue, runner):
            self._say("verifying")
            with self._doing(f"comparing with v{blue.version}"):
                self._compare_with(blue, runner)
        assertions = self.target.settings.verify.assertions
        with self._doing("asking the assertions") if assertions else nullcontext():
            found = self._comparer().assertions(
                self._kept_verification(),
                assertions,
                self._between_assertions(blue, runner),
            )
        fine = tolerated(found, self._options.max_diff)
        if not fine:
            # Kept for the summary; a resumed rebuild compares again.
            self._keep_verification(found)
        return fine

    def _compare_with(self, blue: Version, runner: Runner) -> None:
        comparer = self._comparer()
        # A projector of the application keeps writing to blue, at a position that only it knows.
        if self.target.settings.live == "inline":
            # Blue has what is visible: green gets it, too, for the moment of the comparison.
            visible = self._visible()
            found = comparer.brought_up(blue, str(runner.position), visible.apply)
        elif blue.position is None and self.target.settings.live == "app":
            found = self._compare_with_application(blue, runner)
        elif blue.position is None:
            note = f"v{blue.version} has no checkpoint; it was compared as it is"
            found = comparer.as_they_are(blue, str(runner.position), note)
        elif self._apart(blue):
            note = f"v{blue.version} is of store {blue.store}; it was compared as it is"
            found = comparer.as_they_are(blue, str(runner.position), note)
        else:
            found = comparer.at_one_position(blue, runner)
        self._keep_comparison(found)

    def _compare_with_application(self, blue: Version, runner: Runner) -> Verification:
        """Compare with rows that the application's processor writes. Raises Refused where it stands
        behind green, and rows differ.
        """
        application = self._application()
        at = application.stands_at(self._head())
        between = self._between_looks(runner)
        found = self._comparer().until_they_agree(blue, str(runner.position), between)
        # One that is slow has moved in the meantime.
        if (
            at is not None
            and not tolerated(found, self._options.max_diff)
            and application.position() == at
        ):
            command = f"esops rebuild {self.target.name} --blue-green"
            raise application.behind(at, runner.position, command)
        return found

    def _visible(self) -> VisibleEvents:
        return VisibleEvents(
            self.store, self._green(), self.target.definition, self.target.settings
        )

    def _between_assertions(self, blue: Version | None, runner: Runner) -> BetweenLooks | None:
        """What happens before an assertion is asked again, where others write blue."""
        if blue is None:
            return None
        if blue.position is None and self.target.settings.live != "esops":
            return self._between_looks(runner)
        if not self._session.followed(blue) or self._apart(blue):
            return None
        head = self._head()

        def reached() -> bool:
            now = self._blue()
            return head is None or (
                now is not None and now.position is not None and now.position >= head
            )

        return BetweenLooks(self._between_looks(runner).step, reached, self._say)

    def _between_looks(self, runner: Runner) -> BetweenLooks:
        """Between two looks at rows that the application writes, green follows."""
        head = self._head()

        def step() -> None:
            if self._stop():
                raise Stopped("stopped while rows that differ were checked again")
            runner.step(timedelta(milliseconds=50))
            time.sleep(LOOK_EVERY_SECONDS)

        name = self.target.settings.checkpoint
        names = [name] if name else []
        reached = processors_reached(self.store, names, head)
        behind = processors_behind(self.store, names, head)
        return BetweenLooks(step, reached, self._say, behind)

    def _must_compare(self, blue: Version, runner: Runner) -> bool:
        """Whether to compare now.

        What was compared while loading, at blue's position, cannot be compared again, since green
        is past it. Otherwise each process compares again, even if one before it has compared.
        """
        kept = self._refresh().verification
        if kept is not None and self._compared_where_application_stands(blue, kept):
            return False
        return kept is None or (
            not self._compared
            and (
                blue.position in {None, runner.position}
                or self._apart(blue)
                or self._session.followed(blue)
            )
        )

    def _compared_where_application_stands(self, blue: Version, kept: Mapping[str, Any]) -> bool:
        """Whether rows were compared where the application's processor has stood since."""
        if blue.position is not None or self.target.settings.live != "app":
            return False
        at = self._application().stands_at(self._head())
        return at is not None and str(at) == kept.get("position")
