"""The entry point of ``python -m vidret``."""

from vidret.cli import main

main()
