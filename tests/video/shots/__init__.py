"""Proofs for vidret/video/shots/."""
