"""Proofs of the HTTP server: through its own doors, over an index of plain colours."""
