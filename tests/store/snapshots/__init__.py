"""Proofs for vidret/store/snapshots/."""
