"""One query: parse, find candidates, rerank, locate; calibration, baselines, recall."""
