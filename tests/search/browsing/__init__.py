"""Proofs for vidret/search/browsing/."""
