"""Metrics of retrieval, moments, highlights, differences, diversity and generated videos."""
