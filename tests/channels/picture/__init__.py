"""Proofs for vidret/channels/picture/."""
