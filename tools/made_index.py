"""Large made indexes: one as ``vidret index`` makes it with the starter, one with pictures drawn like real ones.

The first: frames have unit length around a centre of their segment, one of 200, with 49 regions a frame, of which
UCoFiA's tokens are chosen and packed as int8. Regions are drawn once a centre, so segments of one centre have equal
tokens; each has its own copy on disk. Half of the files, which are empty, are in files/a and half in files/b, with
three quarters of the centres each. The second is for ``bench_scale.py``. Words of both are as frequent as in English.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vidret.channels.picture.query_bank import SENTENCES
from vidret.channels.picture.ranker_loading import load_ranker
from vidret.channels.picture.ranking import AUTO, Ranker
from vidret.encode.encoder import Encoder
from vidret.encode.sentences import DIM, FINGERPRINT, NAME, _load_ranks, find_word_share, load_sentence_encoder
from vidret.store.records import RANKER, NewSegment
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import SegmentEmbedding, TextEmbedding, TextSource, TimedText

SEGMENT_S, SEGMENTS_PER_VIDEO, SCALED_PER_VIDEO = 12.0, 50, 100
VIDEO_S = SEGMENT_S * SCALED_PER_VIDEO
SEGMENTS_PER_COMMIT = 2000
CENTRES = 200
REGIONS = 49  # a frame, of the starter
WORDS_PER_TEXT = 9
NUM_MADE_WORDS, MADE_SHARE = 30_000, 0.15  # words outside of the list of English ones
WHO = {"encoder_name": "made", "encoder_fingerprint": "made"}
Draw = Callable[[int, int], np.ndarray]  # so many unit vectors, by a seed


@dataclass(frozen=True, slots=True)
class MadeVideo:
    """A video to store: its content's name, its file, the edges of its segments in seconds, and their vectors."""

    content: str
    file: Path
    edges: Sequence[float] | np.ndarray
    vectors: Sequence[SegmentEmbedding]
    packed: Sequence[bytes] = ()


def add_videos(store: Store, videos: Sequence[MadeVideo]) -> None:
    """Store videos in one commit as an index run would, with empty files."""
    ids, segments = [], []
    for video in videos:
        facts: dict[str, Any] = {"duration": video.edges[-1], "facts": {}, "num_segments": len(video.vectors)}
        ids.append(store.writer.begin_video(video.content, **facts))
        for segment_index, ((start, end), vectors) in enumerate(zip(pairwise(video.edges), video.vectors, strict=True)):
            packed = video.packed[segment_index] if video.packed else b""
            segments.append(NewSegment(ids[-1], segment_index, float(start), float(end), vectors, packed))
    store.writer.add_segments(segments)
    for video_id, video in zip(ids, videos, strict=True):
        video.file.parent.mkdir(parents=True, exist_ok=True)
        video.file.touch()
        store.writer.finish_video(video_id)
        store.writer.set_file(str(video.file), state="done", video=video_id, num_bytes=0, mtime_ns=video_id * 10**9)


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Return what a store keeps of an encoder."""
    return {"encoder_name": encoder.name, "encoder_fingerprint": encoder.fingerprint, "dim": encoder.dim}


def build_index(
    path: Path,
    encoder: Any,
    num_segments: int,
    num_frames: int = 12,
    *,
    per_video: int = SEGMENTS_PER_VIDEO,
    ranker: Ranker | None = None,
) -> None:
    """Store made segments as an index run would, with the tokens of the encoder's own ranker or of another."""
    random, ranker = np.random.default_rng(0), ranker or load_ranker(AUTO, encoder)
    centres = random.standard_normal((CENTRES, encoder.dim), dtype=np.float32)
    packed = [ranker.pack(make_segment(centre, num_frames, random, regions=REGIONS)) for centre in centres]
    with Store.create(path, **describe_encoder(encoder)) as store:
        made = {"name": ranker.name, "fingerprint": ranker.fingerprint, "tokens": "int8"}
        store.metadata.set(RANKER, json.dumps(made))
        for first in range(0, num_segments, per_video):
            folder = first // per_video % 2
            edges = SEGMENT_S * np.arange(min(per_video, num_segments - first) + 1)
            chosen = random.integers(CENTRES * 3 // 4, size=len(edges) - 1) + folder * CENTRES // 4
            vectors = [
                make_segment(centres[centre], num_frames, random, start=start)
                for centre, start in zip(chosen, edges, strict=False)
            ]
            file = path / "files" / "ab"[folder] / f"{first}.mp4"
            add_videos(store, [MadeVideo(f"made-{first}", file, edges, vectors, [packed[centre] for centre in chosen])])
        store.upkeep.save_vectors()


def make_segment(
    centre: Float[np.ndarray, " dim"],
    num_frames: int,
    random: np.random.Generator,
    *,
    start: float = 0.0,
    regions: int = 0,
) -> SegmentEmbedding:
    """Draw a segment's vectors around a centre, with as many regions of each frame."""
    frames = unit(centre + random.standard_normal((num_frames, len(centre)), dtype=np.float32))
    times = start + np.arange(num_frames) + 0.5
    video, lengths = unit(frames.mean(0)), np.ones(num_frames, np.float32)
    if not regions:
        return SegmentEmbedding(video, frames, times)
    noise = random.standard_normal((num_frames, regions, len(centre)), dtype=np.float32)
    tokens = unit(frames[:, None] + noise / len(centre) ** 0.5).reshape(-1, len(centre))
    return SegmentEmbedding(video, frames, times, tokens, None, lengths, lengths.repeat(regions))


def unit(vectors: Float[np.ndarray, "*any dim"]) -> Float[np.ndarray, "*any dim"]:
    """Scale to unit length."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


class MadeEncoder:
    """A real encoder whose texts are turned into the axes of the made vectors."""

    name = fingerprint = "made"

    def __init__(self, encoder: Any, axes: np.ndarray) -> None:
        """Set the encoder and the axes, (its dimension, that of the vectors)."""
        self._encoder, self._axes = encoder, axes
        self.dim = axes.shape[1]

    def __getattr__(self, name: str) -> Any:
        """Return what the encoder has."""
        return getattr(self._encoder, name)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode texts."""
        turned = [text.sentence @ self._axes for text in self._encoder.encode_text(texts)]
        units = [vector / np.linalg.norm(vector) for vector in turned]
        return [TextEmbedding(text, unit, unit[None]) for text, unit in zip(texts, units, strict=True)]


def find_files(index: Path) -> Path:
    """Return the folder of an index's videos: half of them are in ``even``, a thousandth in ``even/0``."""
    return index.with_name(f"{index.name}-files")


def make_pictures(
    index: Path, size: int, draw: Draw, dim: int, *, per_video: int = SCALED_PER_VIDEO, vectors: str | None = None
) -> None:
    """Store segments as an index run would, a frame each, but save no vectors; what is stored already is skipped."""
    num_videos = -(-size // per_video)
    at_once, edges = max(1, SEGMENTS_PER_COMMIT // per_video), SEGMENT_S * np.arange(per_video + 1)
    with Store.create(index, **WHO, dim=dim, vectors=vectors) as store:
        for first in range(0, num_videos, at_once):
            videos, numbers = [], range(first, min(first + at_once, num_videos))
            if store.videos.find_complete(f"made-{numbers[-1]}") is not None:
                continue
            for video_index in numbers:
                folder = find_files(index) / ("even", "odd")[video_index % 2] / str(video_index * 500 // num_videos)
                frames = draw(min(per_video, size - video_index * per_video), video_index)
                made = [
                    SegmentEmbedding(frame, frame[None], np.array([start + SEGMENT_S / 2]))
                    for frame, start in zip(frames, edges, strict=False)
                ]
                videos.append(
                    MadeVideo(f"made-{video_index}", folder / f"{video_index}.mp4", edges[: len(made) + 1], made)
                )
            add_videos(store, videos)


def make_texts(index: Path, num_texts: int) -> None:
    """Store texts for the videos of an index, a track each."""
    rng = np.random.default_rng(1)
    draw_words = make_vocabulary(rng)
    sentences = load_sentence_encoder().encode(SENTENCES[:500])
    with Store.open(index) as store:
        contents = list(store.videos.fingerprints().values())
    with TextStore.create(index, encoder=NAME, fingerprint=FINGERPRINT, dim=DIM) as texts:
        for video_index, rows in enumerate(np.array_split(np.arange(num_texts), len(contents))):
            source: TextSource = "speech" if video_index % 2 else "screen"
            track = texts.begin(contents[video_index], source, "made", duration_s=VIDEO_S)
            if track.complete or not len(rows):
                continue
            lines = [" ".join(words) for words in draw_words(len(rows))]
            starts = np.sort(rng.uniform(0, VIDEO_S - 5, len(rows))).tolist()
            timed = [TimedText(start, start + 3, line, source) for start, line in zip(starts, lines, strict=True)]
            vectors = sentences[rng.integers(len(sentences), size=len(rows))]
            vectors = vectors + rng.standard_normal(vectors.shape, np.float32) / DIM**0.5
            texts.add(track, timed, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), until_s=VIDEO_S)
            texts.finish(track)
        texts.save()


def make_vocabulary(rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Return what draws the words of so many texts, (text, word), as often as they occur in English."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    made = ["".join(rng.choice(letters, rng.integers(5, 11))) for _ in range(NUM_MADE_WORDS)]
    known_words = list(_load_ranks())
    shares = [*map(find_word_share, known_words), *[MADE_SHARE / len(made)] * len(made)]
    words, odds = np.array([*known_words, *made], object), np.cumsum(shares) / sum(shares)
    return lambda count: words[np.searchsorted(odds[:-1], rng.random((count, WORDS_PER_TEXT)))]


def commit_segments(index: Path, interval_s: float) -> Iterator[int]:
    """Commit a segment of a new video and yield its number, again after a while."""
    with Store.open(index, write=True) as store:
        rng = np.random.default_rng(time.time_ns())
        facts: dict[str, Any] = {"duration": VIDEO_S, "facts": {}, "num_segments": 10**6}
        video = store.writer.begin_video(f"beside-{time.time_ns()}", **facts)
        file = find_files(index) / f"{time.time_ns()}.mp4"
        file.touch()
        store.writer.set_file(str(file), state="running", video=video)
        segment_index = 0
        while True:
            vector = rng.standard_normal(store.dim, np.float32)
            vector /= np.linalg.norm(vector)
            embedding = SegmentEmbedding(vector, vector[None], np.array([SEGMENT_S * (segment_index + 0.5)]))
            store.writer.add_segments(
                [NewSegment(video, segment_index, SEGMENT_S * segment_index, SEGMENT_S * segment_index + 12, embedding)]
            )
            yield segment_index
            segment_index += 1
            time.sleep(interval_s)
