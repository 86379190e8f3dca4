"""Faces of people: found in frames, aligned, described by vectors, and followed through shots."""
