"""Temporal grounding: where in a video the moment that a query describes starts and ends."""
