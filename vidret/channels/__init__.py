"""Channels, the kinds of evidence that a video answers a query: pictures, timed texts, sounds, faces and voices."""
