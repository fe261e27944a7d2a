"""Marten: its tables as an event store, its own processors, and how streams leave and come back."""
