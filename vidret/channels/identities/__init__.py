"""What an indexing run reads of identities: tracks of faces and of voices."""
