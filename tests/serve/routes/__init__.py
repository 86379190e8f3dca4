"""Tests of vidret/serve/routes/."""
