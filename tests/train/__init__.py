"""Proofs for vidret/train/."""
