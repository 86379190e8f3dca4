"""Proofs for vidret/channels/sounds/."""
