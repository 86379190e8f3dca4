"""Storage of an index: a SQLite catalog, feature files and a vector index, accessed through ``Store``."""

from vidret.store.records import BadSegment, FileRecord, FileState, NewSegment, PruneReport, StoreInfo, VideoRecord
from vidret.store.store import Store

__all__ = ["BadSegment", "FileRecord", "FileState", "NewSegment", "PruneReport", "Store", "StoreInfo", "VideoRecord"]
