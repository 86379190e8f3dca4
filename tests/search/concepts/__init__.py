"""Proofs for vidret/search/concepts/."""
