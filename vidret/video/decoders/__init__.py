"""Decoders of video files, one a module; ``registry`` lists them and chooses."""
