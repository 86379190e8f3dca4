"""Tests of ``vidret.encode``."""
