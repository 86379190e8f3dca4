"""Decoders of video files, one per module; ``registry`` lists them and chooses one for a file."""
