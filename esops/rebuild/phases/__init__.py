"""The phases of a rebuild, one a file: loading, following, verifying, switching.

Each adds its steps to the one before; `esops.rebuild.steps` puts them in order.
"""
