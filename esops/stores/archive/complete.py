"""Whether all of an archive is there. A part that is gone must not pass for one that never was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from esops.errors import Refused

if TYPE_CHECKING:
    from esops.archive_format.manifest import Manifest
    from esops.archive_format.runs import Catalog, Run


def check_complete(
    catalog: Catalog, sealed: Sequence[tuple[Run, Manifest]], is_own: Callable[[str], bool]
) -> None:
    """Raises EmptyArchive where the place of an archive has none, and Refused where a run that was
    sealed is lost.

    `sealed` are all sealed runs. A lost run counts where `is_own` says so of the store in its plan,
    or where that is lost, too.
    """
    if not sealed:
        catalog.check_there()
    for run in catalog.lost():
        planned = (run.read("plan.json") or {}).get("store")
        if planned is not None and not is_own(planned):
            continue
        raise Refused(
            f"run {run.name} in {catalog.repository.address} was sealed, as the catalog says, and "
            "its manifest is gone: the events that it archived cannot be read, and would be "
            "missing",
            hint=f"Bring runs/{run.name}/ back from a copy of the archive. What else is lost: "
            "esops archive verify.",
        )
