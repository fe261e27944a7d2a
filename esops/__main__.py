"""`python -m esops` is `esops`."""

from esops.cli import main

main()
