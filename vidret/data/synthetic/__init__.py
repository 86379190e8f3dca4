"""A synthetic world: rendered videos with captions and moments, all from one seed."""
