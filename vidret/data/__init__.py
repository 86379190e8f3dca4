"""Annotation files to records to training batches."""
