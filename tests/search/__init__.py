"""Tests of vidret/search/."""
