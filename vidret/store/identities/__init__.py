"""The identities of an index: tracks of faces and voices, and persons."""
