"""Proofs for vidret/store/texts/."""
