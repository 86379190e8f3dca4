"""Proofs for vidret/evaluating/ and vidret eval."""
