"""Candidates to reranked hits: similarities finer than one vector a video."""
