"""Tests of vidret/cli/commands/."""
