"""Proofs for vidret/store/."""
