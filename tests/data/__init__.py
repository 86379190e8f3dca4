"""Proofs for vidret/data/."""
