"""`python -m pruneboard`: the same as the `pruneboard` command."""

from pruneboard.cli import main

main()
