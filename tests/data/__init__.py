"""Tests of vidret/data/."""
