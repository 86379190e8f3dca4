"""Tests of ``vidret.ground``."""
