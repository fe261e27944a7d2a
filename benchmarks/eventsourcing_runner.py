"""The eventsourcing library's own application and projection runner. Run by benchmarks.peers.

`write N` writes so many accounts; a number projects up to that notification and prints the seconds.
"""

from __future__ import annotations

import json
import sys
import time
from functools import singledispatchmethod
from typing import Any

from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL, Identifier

from tests.support import bank
from tests.support.bank import Accounts

UPSERT = (
    "INSERT INTO balances (account, balance, deposits) VALUES (%s, %s, %s) ON CONFLICT (account) "
    "DO UPDATE "
    "SET balance = balances.balance + EXCLUDED.balance, deposits = balances.deposits + "
    "EXCLUDED.deposits"
)


class Balances(PostgresTrackingRecorder):
    """A row for each account, written with the tracking of the event."""

    def __init__(self, datastore: PostgresDatastore, **more: Any) -> None:
        super().__init__(datastore, **more)
        table = (
            "CREATE TABLE IF NOT EXISTS {}.balances (account uuid PRIMARY KEY, balance bigint "
            "NOT NULL, deposits bigint NOT NULL)"
        )
        self.sql_create_statements.append(SQL(table).format(Identifier(self.datastore.schema)))

    def add(self, account: object, amount: int, deposits: int, tracking: Tracking) -> None:
        """Project one event."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(UPSERT, (account, amount, deposits))


class Project(Projection[Balances]):
    """Every event of every account."""

    name = "balances"

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Add what was deposited."""
        amount = getattr(domain_event, "amount", None)
        self.view.add(domain_event.originator_id, amount or 0, int(amount is not None), tracking)


def main(last: int) -> None:
    """Project up to a notification."""
    began = time.perf_counter()
    with ProjectionRunner(
        application_class=Accounts, projection_class=Project, view_class=Balances
    ) as runner:
        runner.wait(last, timeout=280)
    print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        bank.main(int(sys.argv[2]), 1)
    else:
        main(int(sys.argv[1]))
