"""From the text of a query to its clauses and their vectors."""
