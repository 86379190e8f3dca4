"""Encoders, which map frames and texts to vectors of one space."""
