"""Tests of vidret/corpus/."""
