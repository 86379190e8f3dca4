"""Proofs for vidret/channels/identities/."""
