"""Proofs for vidret/eval/."""
