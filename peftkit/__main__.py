"""Turn `python -m peftkit` into the console script."""

from peftkit.cli import main

main()
