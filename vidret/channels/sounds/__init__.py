"""Sounds in videos besides words: silence, music, speech, and sounds by example or by name."""
