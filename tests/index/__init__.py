"""Tests of vidret/index/."""
