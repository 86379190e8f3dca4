"""Proofs for vidret/search/query/."""
