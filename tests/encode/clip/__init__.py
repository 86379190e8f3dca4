"""Proofs for vidret/encode/clip/."""
