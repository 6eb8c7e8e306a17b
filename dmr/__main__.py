"""`python -m dmr` is the command line."""

from dmr.cli.main import main

main()
