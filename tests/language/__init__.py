"""Tests of questions about videos."""
