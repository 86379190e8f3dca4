"""Proofs for vidret/timed_text/."""
