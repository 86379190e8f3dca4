"""Frames and encoder layers that training keeps on disk."""
