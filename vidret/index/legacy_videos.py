"""Videos with a fingerprint of an earlier version, which covers only a sample of the content."""

from collections import defaultdict
from collections.abc import Iterable

from vidret.index.progress import FileJob
from vidret.store.records import FileRecord
from vidret.store.store import Store
from vidret.video.identity import legacy_fingerprint


class LegacyVideos:
    """Identifies moved files, whose size and modification time are the same, by such fingerprints; no other files."""

    def __init__(self, store: Store) -> None:
        """Start without videos."""
        self._store = store
        self._video_ids: dict[tuple[int | None, int | None], set[int]] = defaultdict(set)

    def add(self, records: Iterable[FileRecord]) -> None:
        """Collect the videos of files that have such a fingerprint, by size and modification time."""
        fingerprints = self._store.videos.fingerprints()
        for record in records:
            if record.video is not None and "-" not in fingerprints[record.video]:
                self._video_ids[record.num_bytes, record.mtime_ns].add(record.video)

    def find(self, job: FileJob) -> int | None:
        """Return the id of the complete video that a file holds, or None."""
        for video_id in self._video_ids.get((job.num_bytes, job.mtime_ns), ()):
            record = self._store.videos.get(video_id)
            if record.complete and not record.salvaged and record.fingerprint == legacy_fingerprint(job.path):
                return video_id
        return None
