"""Annotation files -> records -> batches."""
