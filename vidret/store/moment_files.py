"""What the files of prepared moments take: those that are kept for a grounding head."""

from dataclasses import dataclass

from vidret.store.records import KEPT, MOMENTS, PROJECTED
from vidret.store.store import Store


@dataclass(frozen=True, slots=True)
class MomentCounts:
    """The videos that are prepared for grounding heads, each counted once per head, and what their files take."""

    videos: int
    seconds: float
    num_bytes: int

    @property
    def bytes_per_hour(self) -> float:
        """Return the size of what one head needs of an hour of video."""
        return 3600 * self.num_bytes / max(self.seconds, 1.0)


def count_moments(store: Store) -> MomentCounts:
    """Count the files that are kept for the grounding heads of an index."""
    paths = list((store.path / MOMENTS).glob(f"*/{KEPT}/*{PROJECTED}"))
    contents = store.contents([path.stem for path in paths]) if paths else {}
    num_videos, seconds, num_bytes = 0, 0.0, 0
    for path in paths:
        if path.stem in contents:
            video = store.video(contents[path.stem])
            num_videos += 1
            seconds += video.duration - video.start
            num_bytes += path.stat().st_size
    return MomentCounts(num_videos, seconds, num_bytes)
