"""Tests of vidret.evaluate and vidret eval."""
