"""Reading of videos from a path or URL: probing, sampling and decoding, in processes that may crash without harm."""
