"""Several indexes that are read as one."""
