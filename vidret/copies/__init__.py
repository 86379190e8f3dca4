"""The same footage in several videos: candidates by frame vectors, alignment in time, a check of decoded frames."""
