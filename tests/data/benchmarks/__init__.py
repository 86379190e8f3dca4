"""Tests of vidret/data/benchmarks/."""
