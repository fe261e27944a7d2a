"""Accounts in Python's eventsourcing, written by the library itself:

`python -m tests.support.bank ACCOUNTS SEED` with its environment.
"""

from __future__ import annotations

import random
import sys
import time

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import PersistenceError


class Account(Aggregate):
    @event("Opened")
    def __init__(self) -> None:
        self.balance = 0

    @event("Deposited")
    def deposit(self, amount: int) -> None:
        self.balance += amount


class Accounts(Application):
    pass


def started() -> Accounts:
    """The application.

    At its start the library makes its functions anew, which fails where another process does so at
    this moment.
    """
    for _ in range(20):
        try:
            return Accounts()
        except PersistenceError:
            time.sleep(0.2)
    return Accounts()


def main(count: int, seed: int) -> None:
    chance = random.Random(seed)
    with started() as accounts:
        for _ in range(count):
            account = Account()
            for _ in range(chance.randrange(1, 8)):
                account.deposit(chance.randrange(100))
            accounts.save(account)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
