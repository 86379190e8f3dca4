"""Synthetic benchmarks: rendered videos with captions and moments, generated from one seed."""
