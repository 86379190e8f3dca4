"""Proofs for vidret/align/."""
