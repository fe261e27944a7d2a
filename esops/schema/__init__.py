"""What the payloads of events look like over the years, and who can read them."""
