"""The unfinished run of a policy: what continuing it does, and whether esops.toml still says so.

A sealed run removes what was selected when it began. Where the policy was edited since, so that it
now takes less, nobody would expect that from the file, nor from a plan of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Catalog, Run
from esops.errors import Refused, UsageError
from esops.settings import PolicySettings, Removal, StoreSettings
from esops.term import duration

_SELECTS = (
    "category",
    "stream",
    "tenant",
    "idle_for",
    "closed_by",
    "min_length",
    "until",
    "keep_last",
    "older_than",
)
"""The keys of a policy that say what a run takes."""


def noted(policy: PolicySettings) -> dict[str, Any]:
    """What a run notes of its policy when it begins, for the one that continues it."""
    return {"remove": policy.remove, **{key: _plain(getattr(policy, key)) for key in _SELECTS}}


@dataclass(frozen=True, slots=True)
class UnfinishedPlan:
    """What the next run continues, before it selects again."""

    run: str
    sealed: bool
    """Whether it has selected and exported all of it."""
    remove: Removal
    what: str
    """Its removal as a phrase."""
    removes_already: bool
    """Whether events of it have begun to leave the store."""
    streams: int
    events: int
    refused: str | None
    """Why a run would be refused now."""
    hint: str | None
    """What to do then."""
    late: Sequence[dict[str, str]] = ()
    """The readers that have not read all of its events: it would be refused now."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        fields = asdict(self)
        del fields["what"]
        return fields


class UnfinishedRun:
    """A run that is neither done nor failed."""

    def __init__(self, run: Run, planned: dict[str, Any]) -> None:
        """`planned` is the run's plan.json."""
        self.run, self._planned = run, planned

    @cached_property
    def manifest(self) -> Manifest | None:
        """Its seal; None where it has none, so that a run exports again. Raises Damaged."""
        return self.run.seal()

    @property
    def removal(self) -> Removal | None:
        """How its events leave the store, as was asked for when it began."""
        return cast("Removal | None", self._planned.get("remove"))

    @property
    def removes_already(self) -> bool:
        """Whether events of it have begun to leave the store."""
        return self.run.read("removal.json") is not None

    def is_of(self, store: str, settings: StoreSettings) -> bool:
        """Whether it archives the events of this store, under a name that the store has or had."""
        return self._planned["store"] in (store, *settings.sources(store))

    def check_store(self, store: str, settings: StoreSettings, name: str) -> None:
        """Raises UsageError where the policy of that name now names another store."""
        if self.is_of(store, settings):
            return
        was = self._planned["store"]
        raise UsageError(
            f"the unfinished run {self.run.name} of this policy archives store {was}, and the "
            f"policy now names store {store}",
            hint=f'Set store = "{was}" again, and run the policy once to finish it. If store '
            f'{store} is the same store under a new name, set `of = ["{was}", "{store}"]` in its '
            f"section. Or give the run up: esops archive run {name} --start-again",
        )

    def check_policy(
        self, file: Path, name: str, policy: PolicySettings, asked: Removal | None
    ) -> None:
        """Raises Refused where a policy says less than when the run began: events would leave that
        it does not select any more. `asked` is what the command line says of the removal.
        """
        if (asked or self.removal or policy.remove) == "keep":
            return
        less = list(self._less(policy, asked))
        if not less:
            return
        more = f" --remove {self.removal}" if less[0].startswith("remove ") else ""
        finish = (
            f"To finish it as it was begun: esops archive run {name}{more}"
            if len(less) == 1 and more
            else "To finish it as it was begun, set what the file said before, and run it again"
        )
        raise Refused(
            f"run {self.run.name} is not finished, and in {file} its policy says less than when "
            f"it began: {', '.join(less)}",
            hint=f"To give the run up (what it has removed stays archived): esops archive run "
            f"{name} --start-again. {finish}.",
        )

    def _less(self, policy: PolicySettings, asked: Removal | None) -> Iterator[str]:
        """What a policy says now, and takes less than what it said before."""
        before, now = self._planned.get("noted"), noted(policy)
        # Earlier versions have noted the removal alone.
        was = self.removal if before is None else before["remove"]
        if asked is None and now["remove"] not in (was, self.removal):
            yield f"remove was {_said(was)} and is {_said(now['remove'])}"
        # Without a seal, what it takes is selected again.
        if before is None or self.manifest is None:
            return
        for key in _SELECTS:
            if not _COVERS.get(key, _covers_name)(now[key], before[key]):
                yield f"{key} was {_said(before[key], key)} and is {_said(now[key], key)}"


def unfinished_run(catalog: Catalog, policy_name: str) -> UnfinishedRun | None:
    """The newest run of a policy, `archive/policy`, if it is neither done nor failed."""
    short_name = policy_name.rpartition("/")[2]
    # The name alone tells of most runs that they are of other policies: nothing is read of those.
    for name in reversed(catalog.of_policy(short_name)):
        found = Run(catalog.repository, name)
        planned = found.read("plan.json")
        if planned is None or planned["policy"] != policy_name:
            continue
        return None if found.state in ("done", "failed") else UnfinishedRun(found, planned)
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return list(value) if isinstance(value, tuple) else value


def _covers_name(now: Any, before: Any) -> bool:
    return now in (None, "*", before)


def _covers_least(now: Any, before: Any) -> bool:
    return bool(now <= before)


def _covers_types(now: Any, before: Any) -> bool:
    return not now or (bool(before) and set(before) <= set(now))


_COVERS: dict[str, Callable[[Any, Any], bool]] = {
    "idle_for": _covers_least,
    "min_length": _covers_least,
    "keep_last": _covers_least,
    "older_than": _covers_least,
    "closed_by": _covers_types,
    "until": _covers_types,
}
"""For each key that is no name: whether what it says now takes in all that it took before."""


def _said(value: Any, key: str = "") -> str:
    """A value about as esops.toml has it."""
    if value in (None, []) or (key != "min_length" and value == 0):
        return "not set"
    if key in ("idle_for", "older_than"):
        return duration(value)
    if isinstance(value, list):
        return "[" + ", ".join(f'"{each}"' for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
