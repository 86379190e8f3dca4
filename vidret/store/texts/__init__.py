"""The timed texts of an index: speech, subtitles, screen text, sounds and descriptions of its videos."""
