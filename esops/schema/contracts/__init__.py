"""Contracts: which events are public, what these promise, and what leaves beside them."""
