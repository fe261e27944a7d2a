"""Rebuild a read model beside the one that serves, verify it, and switch: plan, journal, steps,
verify, switch.
"""
