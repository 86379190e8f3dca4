"""Runs the command line: ``python -m vidret``."""

from vidret.cli import main

main()
