"""Tests of vidret/cli/."""
