"""Moments as a timeline for editing programs: what to cut, frame by frame, and the files that say it."""

TIMELINES = ("otio", "fcpxml", "edl", "markers")  # the formats
