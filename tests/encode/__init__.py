"""Proofs for vidret/encode/."""
