"""Readers of benchmark annotation files."""
