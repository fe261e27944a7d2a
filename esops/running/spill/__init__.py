"""First loads of folds with more keys than fit into memory.

A spill puts the events into another order: by partitions of their keys, and in each by their
positions. A fold allows that, since the events of one key keep their order. First all events are
read once and written to files, one for each partition (`writing`, `directory`); then the partitions
are folded one after the other, each wholly in memory, and written by COPY (`applier`). Databases do
the same for a hash aggregate that is larger than their memory.
"""
