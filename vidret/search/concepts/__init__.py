"""Concepts taught by examples, and the vectors of queries that mention them."""
