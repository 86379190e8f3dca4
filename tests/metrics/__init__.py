"""Tests of vidret/metrics/."""
