"""Analysis of a corpus of videos: overviews, distinctive phrases, diversity, probes of encoders, generated videos."""
