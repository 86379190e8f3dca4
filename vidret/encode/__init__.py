"""Frames to SegmentEmbedding, text to TextEmbedding."""
