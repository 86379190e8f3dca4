"""The catalog of an index: tables in SQLite with a checksum per row, and their repair."""
