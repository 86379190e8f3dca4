"""Tests of vidret/cli/evaluate/."""
