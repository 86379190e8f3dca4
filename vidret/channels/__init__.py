"""Kinds of evidence that a video answers a query: its pictures, and what is said, shown, written or described."""
