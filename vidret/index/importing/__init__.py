"""Vectors that other programs made: their files, and how an index takes them."""

from vidret.index.importing.run import ImportReport, check_embeddings, import_videos
from vidret.index.importing.vector_files import read_vectors

__all__ = ["ImportReport", "check_embeddings", "import_videos", "read_vectors"]
