"""Hits to moments: where in a video the answer starts and ends."""
