"""Proofs for vidret/channels/voices/."""
