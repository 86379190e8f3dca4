"""Grounding heads over the videos of an index."""
