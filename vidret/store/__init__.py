"""Storage of an index: a SQLite catalog, feature files and a vector index, accessed through ``store.Store``."""
