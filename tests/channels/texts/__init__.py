"""Proofs for vidret/channels/texts/."""
