"""Who did what with esops, and how it ended: one row an action, where the action writes.

A job says that it is about to write (readmodel.migrations, `current`), and that is when the row is
made: before a question is answered, and under --dry-run, there is none. It is completed in the end.
A process that is killed leaves it as it is, and a lock that went with the process tells the rest.
"""
