"""`esops schema decode`: whether an application's code can read every event that was ever stored.

outcomes.py     what becomes of one event
comparing.py    a payload, and what the code made of it
masking.py      messages without the values of events
batches.py      events on their way to another process
python_code.py  the application's function, in a process of its own (child.py)
lazy_results.py coroutines and generators of the function, run to their end
code_files.py   the files that the code uses as it runs
program.py      any program, by docs/reference/decode-protocol.md
fatal.py        which events are not given any more, since such have ended the code
groups.py       failures and differences, in groups
kept.py         how far a run came
run.py          the run
"""
