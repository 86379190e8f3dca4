"""What is in a corpus of videos: its contents, its diversity, and what an encoder or a generator can do with it."""
