"""Vector stores, which keep a searchable copy of an index's vectors: one module each, and a registry."""
