"""Questions about videos: the moments that may answer them, and answers of a language model that cite these."""
