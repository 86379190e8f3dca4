"""Metrics of retrieval, moment retrieval and highlight detection."""
