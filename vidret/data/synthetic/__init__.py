"""Synthetic scenes: drawn from one seed, rendered, and described in words."""
