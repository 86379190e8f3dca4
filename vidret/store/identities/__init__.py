"""Who is seen and heard in the videos of an index."""
