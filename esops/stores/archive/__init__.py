"""An archive as a store, read-only, and joined with the hot store that it came from."""
