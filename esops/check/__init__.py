"""Whether a read model is still what its events make of it, row by row."""
