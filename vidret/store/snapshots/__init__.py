"""Snapshots of a catalog: numpy columns that answer for all rows."""
