"""Merging of indexes that were built separately."""

from vidret.index.merging.merge import MergeReport, merge_indexes

__all__ = ["MergeReport", "merge_indexes"]
