"""On-disk caches of frames and encoder layers for training."""
