"""Random histories of an event store, with an oracle that knows all of its events.

A history is a list of steps: what an application, its operators and their mistakes do to a store's
table and sequence, and what esops is asked for in between. `plans` makes one from a seed, `world`
carries the steps out and keeps the books, and `jobs` checks what esops says against them: a job
either sees exactly all that was committed, once and in order, or refuses.

    python -m tests.support.histories --count 2000 --seed 1      # every layout in turn
    python -m tests.support.histories --layout messagedb --seed 17 --count 1

A history that fails is made smaller, and printed with its seed as a list of steps.
"""
