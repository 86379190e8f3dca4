"""Proofs for vidret/encode/families/."""
