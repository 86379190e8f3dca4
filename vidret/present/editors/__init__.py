"""Moments as a timeline for editing programs: the plan of the cuts in frames, and one writer per file format."""

TIMELINES = ("otio", "fcpxml", "edl", "markers")  # the formats
