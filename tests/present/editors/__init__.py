"""Tests of vidret/present/editors/."""
