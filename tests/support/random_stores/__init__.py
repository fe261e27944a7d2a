"""Random stores that are archived, emptied and restored.

A store is made from a seed: a layout in one of its variants, extra columns of any built-in type,
generated and identity columns, times over the whole range, payloads of any bytes. It is archived and
its events are removed; then they are restored. All tables are what they were, as text and row by
row, or the run was refused before it removed anything.

    python -m tests.support.random_stores --count 500 --seed 1
    python -m tests.support.random_stores --seed 17 --count 1      # one that failed

What differs is printed with its seed and what the store is made of.
"""
