"""Indexes that were built apart become one."""

from vidret.index.merging.copying import MergeReport, merge_indexes

__all__ = ["MergeReport", "merge_indexes"]
