"""What a switch does about readers whose snapshot is older than the rows to be served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.option_groups import option_group
from esops.cli.shared import duration_if_given

if TYPE_CHECKING:
    from datetime import timedelta

    from esops.rebuild.snapshots import SnapshotPatience


@option_group(panel="Verification and switch")
class SnapshotOptions:
    """How long a switch waits for such readers, and whether it switches in spite of them."""

    snapshot_wait: Annotated[
        str | None,
        typer.Option(
            "--snapshot-wait",
            metavar="D",
            help="Wait at most this long for readers whose snapshot is older than the rows to be "
            "served; default 60s.",
        ),
    ] = None
    despite_snapshots: Annotated[
        bool,
        typer.Option(
            "--despite-snapshots",
            help="Switch although such readers see the read model without its newest rows.",
        ),
    ] = False

    def limit(self) -> timedelta | None:
        """How long to wait; None where it was not given. Raises UsageError."""
        return duration_if_given("--snapshot-wait", self.snapshot_wait)

    def patience(self) -> SnapshotPatience:
        """The same for a switch, with the default."""
        from esops.rebuild.snapshots import DEFAULT_PATIENCE, SnapshotPatience

        limit = self.limit()
        return SnapshotPatience(
            DEFAULT_PATIENCE.limit if limit is None else limit, self.despite_snapshots
        )
