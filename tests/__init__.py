"""Proofs for vidret, room by room."""
