"""Proofs for vidret/search/heads/."""
