"""Proofs for vidret/store/vectors/."""
