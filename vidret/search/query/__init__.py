"""Parsing of a query's text into clauses, and their vectors."""
