"""Indexes of made-up vectors: videos in two folders, near the vectors of ``ColourEncoder``'s colours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.fakes import ColourEncoder, unit
from tests.store.samples import add_segment
from vidret.store.store import Store
from vidret.types import SegmentEmbedding

FRAMES_PER_SEGMENT = 3


def write_colour_index(index: Path, folders: Mapping[str, Sequence[str]], *, noise: float = 0.3, seed: int = 0) -> Path:
    """Write an index with a video ``/FOLDER/N.mp4`` of two segments for each colour of each folder.

    The last frame of the second segment is nearest to its colour.
    """
    encoder, rng = ColourEncoder(), np.random.default_rng(seed)
    fingerprint = encoder.fingerprint
    with Store.create(index, encoder_name=encoder.name, encoder_fingerprint=fingerprint, dim=encoder.dim) as store:
        for folder, colours in folders.items():
            for video_index, colour in enumerate(colours):
                video = store.writer.begin_video(f"{folder}-{video_index}", duration=6.0, facts={}, num_segments=2)
                path = f"/{folder}/{video_index}.mp4"
                store.writer.set_file(path, state="running", video=video, num_bytes=1, mtime_ns=1)
                (text,) = encoder.encode_text([colour])
                for segment in range(2):
                    frames = unit(text.sentence + noise * rng.standard_normal((FRAMES_PER_SEGMENT, 3)))
                    if segment:
                        frames[-1] = text.sentence
                    times = np.arange(FRAMES_PER_SEGMENT, dtype=np.float64) + 3 * segment
                    embedding = SegmentEmbedding(unit(frames.mean(axis=0)), frames, times)
                    add_segment(store, video, segment, 3.0 * segment, 3.0 * segment + 3, embedding)
                store.writer.finish_video(video)
                store.writer.set_file(path, state="done")
        store.upkeep.save_vectors()
    return index
