"""Decoding processes, so that a file that crashes its decoder fails alone."""
