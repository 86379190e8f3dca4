"""Questions about videos: retrieval of moments that may answer them, and a language model's answers that cite these."""
