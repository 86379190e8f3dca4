"""Tests of UniversalVTG."""
