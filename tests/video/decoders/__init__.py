"""Proofs for vidret/video/decoders/."""
