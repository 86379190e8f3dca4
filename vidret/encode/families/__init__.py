"""Families of encoders, each a way to load models by name; ``registry`` lists them."""
