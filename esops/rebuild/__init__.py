"""Rebuilding read models beside the ones that serve.

    api.py        the way in, from Python and for the command line
    planning.py   finds out what will be done; plan.py is what it found
    steps.py      one rebuild from its first state to its last; phases/ has the steps
    journal.py    the only state that a rebuild has
    switch.py     the one transaction after which readers see green
    lifecycle.py  what comes after: switch, roll back, retire

Besides, load/ is the first load by several processes or for several projections, verification/
compares green with blue, and variants/ are rebuilds in place, by the application and in the store.
"""
