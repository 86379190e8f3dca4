"""From a path or URL to frames: probe, sampling and decoding, in processes that may crash or hang without harm."""
