"""Searchable copies of the vectors of an index, one module a vector store, and where each index has its own."""
