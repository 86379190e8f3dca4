"""Encoders: frames and texts to vectors of one space."""
