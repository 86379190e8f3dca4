"""Proofs for vidret/store/identities/."""
