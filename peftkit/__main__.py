"""The entry point of `python -m peftkit`."""

from peftkit.cli import main

main()
