"""Tests of vidret/present/."""
