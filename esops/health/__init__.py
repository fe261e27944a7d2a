"""How everything is: what is there, how far it is, what is missing, and what to do about it."""
