"""CLIP: its towers, with TempMe and Prompt Switch, the encoder, and the conversion of published weights."""
