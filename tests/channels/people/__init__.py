"""Proofs for vidret/channels/people/."""
