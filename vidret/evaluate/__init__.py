"""Evaluation of an engine on a benchmark: index its videos, run all queries, compute metrics, write a report."""
