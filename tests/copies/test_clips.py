"""The videos in which a clip is looked for are those with the segments nearest to one of its frames."""

from pathlib import Path

import numpy as np
import pytest

from tests.store.samples import DIM, add_segment, create
from vidret.copies.clips import MAX_VIDEOS, NEAREST, Clip, ClipFinder
from vidret.types import ALL_VIDEOS, SegmentEmbedding


@pytest.mark.parametrize("num_still", [1, 3])
def test_videos_with_many_near_segments_hide_no_other(tmp_path: Path, num_still: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((MAX_VIDEOS + 9, 2, DIM)).astype(np.float32)
    clip = vectors[:1, 0]
    vectors[1:] -= 0.9 * vectors[1:] @ clip.T @ clip / (clip @ clip.T)  # hardly like the clip
    with create(tmp_path) as store:
        for seed, rows in enumerate(vectors):
            num_copies = NEAREST if seed < num_still else 1
            segments = np.repeat(clip if seed < num_still else rows, num_copies, axis=0)
            video = store.writer.begin_video(f"v{seed}", duration=60.0, facts={}, num_segments=len(segments))
            store.writer.set_file(f"/{seed}.mp4", state="done", video=video)
            for index, vector in enumerate(segments):
                unit = vector / np.linalg.norm(vector)
                embedding = SegmentEmbedding(unit, unit[None], np.zeros(1))
                add_segment(store, video, index, 0.0, 9.0, embedding)
        videos = {video.id: video for video in store.videos.find()}
        found = ClipFinder(store)._find_videos(
            Clip(path="clip.mp4", start=0.0, end=9.0, vectors=clip / np.linalg.norm(clip), times=np.zeros(1)),
            videos,
            ALL_VIDEOS,
        )
    likeness = {
        video: max(rows @ clip[0] / np.linalg.norm(rows, axis=1))
        for video, rows in enumerate(vectors[num_still:], start=num_still + 1)
    }
    nearest = sorted(likeness, key=lambda video: -likeness[video])[: MAX_VIDEOS - num_still]
    assert sorted(found) == [*range(1, num_still + 1), *sorted(nearest)]
