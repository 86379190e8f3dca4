"""SegmentEmbedding to disk to candidates: a catalog, feature files and vectors behind one Store."""

from vidret.store.records import BadSegment, FileRecord, FileState, NewSegment, PruneReport, StoreInfo, VideoRecord
from vidret.store.store import Store

__all__ = ["BadSegment", "FileRecord", "FileState", "NewSegment", "PruneReport", "Store", "StoreInfo", "VideoRecord"]
