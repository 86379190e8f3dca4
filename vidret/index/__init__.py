"""One indexing run: plan, decode, encode, commit; on threads here or on Ray; merging indexes."""
