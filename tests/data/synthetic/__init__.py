"""Tests of vidret/data/synthetic/."""
