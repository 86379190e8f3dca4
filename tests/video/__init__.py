"""Proofs for vidret/video/."""
