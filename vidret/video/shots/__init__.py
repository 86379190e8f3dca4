"""Shots of a video: cuts, gradual changes, and the segments that follow them."""
