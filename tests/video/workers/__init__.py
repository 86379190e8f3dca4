"""Proofs for vidret/video/workers/."""
