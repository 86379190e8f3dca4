"""The catalog of an index: tables in SQLite with a checksum a row, and their repair."""
