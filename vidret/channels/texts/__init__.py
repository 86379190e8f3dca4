"""What the channels of timed texts share: reading them at indexing, and matching them with a query."""
