"""`esops trace`: what caused an event, and what it caused."""
