"""Benchmarks: annotation files to records."""
