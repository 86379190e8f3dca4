"""Tests of vidret.copies."""
