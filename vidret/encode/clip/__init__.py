"""CLIP: its towers, with TempMe and Prompt Switch, and its weights."""
