"""The shared part of the channels of timed texts: reading them at indexing, and matching them with a query."""
