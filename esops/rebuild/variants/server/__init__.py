"""Rebuilds of projections that run inside the store: a second one is built beside the first and
compared, readers are moved to it, and the first one is retired.

EventStoreDB's projections have no alias that could be pointed elsewhere, and after a reset readers
would watch the results come up from zero. So version 2 is a projection of its own, `name-v2`, and a
program of the user's moves those who read the results. The journal is a stream of the store itself,
since there is no database: `$esops-<projection>`, which applications do not see.

    plan.py      what will be done                  journal.py   what was done, as events
    work.py      the steps of a rebuild             compare.py   results and states of two
    readers.py   the user's program                              projections
    versions.py  show, switch, roll back, retire
"""
