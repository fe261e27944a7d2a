"""What is recorded of a check while it works: that it began, how it ended, and which rows it found
wrong, or right again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esops.check import checks
from esops.check.context import CheckContext
from esops.check.result import CheckResult
from esops.check.tables import KeyText
from esops.errors import EsopsError, Stopped
from esops.postgres.connection import translated


class CheckRecord:
    """The record of one check."""

    def __init__(self, context: CheckContext, result: CheckResult) -> None:
        """Records that it begins, with the number in `result`; where this role may not write that,
        nothing is recorded, and a note of the result says so.
        """
        self._context, self._result = context, result
        with translated():
            result.check = checks.begin(
                context.connection, result.projection, result.version, result.asked
            )
        if result.check is None:
            result.notes.append("this role may not write to esops' tables: nothing was recorded")

    def keep(self, check: Callable[[], None], *, named: bool) -> None:
        """Check, and record how it ended. `named`: only keys that were named."""
        context, result = self._context, self._result
        began, state, reason = time.monotonic(), "failed", None
        try:
            check()
            state = "done"
        except Stopped as stopped:
            state, reason = "stopped", stopped.message
            raise
        except EsopsError as error:
            reason = error.message
            raise
        finally:
            result.seconds = time.monotonic() - began
            result.position, result.events = context.position, context.scratch.events
            whole = context.draw.whole and not named and state == "done"
            result.of = context.found.keys if whole else context.about
            if result.check is not None and not context.connection.closed:
                self._end(result.check, state, reason)

    def _end(self, check: int, state: str, reason: str | None) -> None:
        connection, result = self._context.connection, self._result
        found = result.found
        ended: dict[str, Any] = {
            "state": state,
            "position": None if result.position is None else str(result.position),
            "checked": found.keys,
            "of": result.of,
            "differing": found.differing,
            "missing": found.missing,
            "surplus": found.surplus,
            "unchecked": found.unknown,
            "columns": dict(found.columns),
            "samples": [_without_values(each) for each in found.samples],
            "reason": reason,
            "seconds": result.seconds,
        }
        with translated():
            checks.keep_keys(connection, check, found.wrong)
            checks.end(connection, check, ended)

    def forget_right(self, keys: Sequence[KeyText] | None) -> None:
        """Of the rows that earlier checks found wrong, note those that are right now. `keys`: the
        only ones that were checked.
        """
        context, check = self._context, self._result.check
        found, looked = context.found, None if keys is None else set(keys)
        # Where more are wrong or not known than are kept, nobody knows whether one is among them.
        if check is None or max(len(found.wrong), len(found.doubtful)) >= checks.KEPT_KEYS:
            return
        wrong = {(each.table, each.key) for each in found.wrong}
        right = [
            (table, key)
            for table, key in context.wrong_before
            if (looked is None or key in looked)
            and (table, key) not in wrong
            and key not in found.doubtful
        ]
        with translated():
            checks.mark_right(context.connection, check, right)


def _without_values(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as it is recorded: values may be a person's, who wants them erased one day."""
    names = sorted({**(sample["served"] or {}), **(sample["folded"] or {})})
    kind = "unlike"
    if sample["served"] is None or sample["folded"] is None:
        kind, names = ("missing" if sample["served"] is None else "surplus"), []
    return {**sample, "served": None, "folded": None, "kind": kind, "columns": names}
