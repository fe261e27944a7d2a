"""Comparing green with blue before the switch."""
