"""The timed texts of an index: what is said and shown in its videos."""
