"""Descriptions of segments by a vision model, which ``vidret describe`` adds to an index."""

from vidret.channels.texts.kind import TextKind

KIND = TextKind(source="generated", name="generated", label="generated description")
