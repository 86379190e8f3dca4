"""Families of encoders, each of which loads models by name; ``registry`` lists them."""
