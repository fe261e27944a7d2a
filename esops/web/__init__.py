"""`esops serve`: what esops knows, as pages in a browser; and a few controls, where allowed."""
