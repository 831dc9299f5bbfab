"""Run the `pruneboard` command as `python -m pruneboard`."""

from pruneboard.cli import main

main()
