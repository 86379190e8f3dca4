"""Voices: turns of speech with one speaker each, and a vector of the voice for each of them."""
