"""Rebuilds of projections that run inside the store: a second one beside the first, compared,
handed over, the first retired.

EventStoreDB's projections have no alias that could be repointed, and a reset lets readers watch the
new one come up from zero.
So version 2 is a projection of its own, `name-v2`; who reads the results is moved to it by a
program of the user's. The journal
is a stream of the store itself, since there is no database: `$esops-<projection>`, out of sight of
applications.

    journal.py   what was done, as events           compare.py   results and states of two
    projections
    handover.py  the user's program                  work.py      the steps of a rebuild
    versions.py  show, roll back, retire
"""
