"""Indexing on Ray."""
