"""Query-video similarities that are finer than one vector per video, for reranking."""
