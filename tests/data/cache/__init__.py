"""Tests of vidret/data/cache/."""
