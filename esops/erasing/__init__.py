"""Erasing personal data: masked in the store and in the archives, and proven by reading back."""
