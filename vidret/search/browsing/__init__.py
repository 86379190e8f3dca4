"""What an index holds, to look around in it without a query: kinds, a map, and what is unusual."""
