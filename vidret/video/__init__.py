"""Path to Frames: probe a file, choose frames, decode them, in processes that may crash or hang without harm."""
