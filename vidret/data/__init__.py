"""Annotation files and videos to records and batches: benchmarks, synthetic scenes, caches, samplers, data modules."""
