"""Proofs for vidret/ground/."""
