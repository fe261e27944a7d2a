"""Rebuilds that differ from the usual one: in place (whole or in ranges), by the application, and
inside the store.
"""
