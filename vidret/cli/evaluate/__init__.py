"""The commands ``vidret eval ...``."""
