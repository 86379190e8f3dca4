"""Proofs for vidret/channels/."""
