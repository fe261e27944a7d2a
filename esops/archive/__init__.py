"""`esops archive`: old streams leave the hot store, after they were proven to be in an archive."""
