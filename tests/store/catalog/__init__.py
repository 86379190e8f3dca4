"""Proofs for vidret/store/catalog/."""
