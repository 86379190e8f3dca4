"""A benchmark's annotations and an engine to a report: encode what is missing, ask everything, count, tell."""
