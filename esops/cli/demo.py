"""`esops demo` (filled in with the demo)."""
