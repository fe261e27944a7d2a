"""`esops uninstall`: what esops made in databases is removed, and what serves stays."""
