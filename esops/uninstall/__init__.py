"""`esops uninstall`: what esops made in databases is taken out again, and what serves stays."""
