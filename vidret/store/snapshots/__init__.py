"""Snapshots of a catalog: numpy columns of all rows, which answer queries without SQL."""
