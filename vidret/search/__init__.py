"""One query: parse, find candidates, rerank, locate; evidence, calibration, recall."""
