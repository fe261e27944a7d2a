"""`esops trace`: what happened because of something, and why."""
