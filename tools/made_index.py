"""A large index of made vectors and words, as ``vidret index`` makes one with the starter.

Frames have unit length around a centre of their segment, one of 200, with 49 regions a frame, of which UCoFiA's tokens
are chosen and packed as int8. Regions are drawn once a centre, so segments of one centre have equal tokens; each has
its own copy on disk. Half of the files, which are empty, are in files/a and half in files/b, with three quarters of the
centres each. Words follow Zipf's law.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vidret.align.baseline import UNRELATED
from vidret.channels.picture.ranking import AUTO, load_ranker
from vidret.encode.encoder import Encoder
from vidret.encode.sentences import DIM, FINGERPRINT, NAME
from vidret.store.records import RANKER, NewSegment
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import SegmentEmbedding, TextSource, TimedText

SEGMENTS_PER_VIDEO = 50
SEGMENT_S = 12.0
CENTRES = 200
REGIONS = 49  # a frame, of the starter
VOCABULARY = 50_000
WORDS_PER_TEXT = 9


def build_index(path: Path, encoder: Encoder, num_segments: int, num_frames: int = 12) -> None:
    """Store made segments as an index run would."""
    random = np.random.default_rng(0)
    ranker = load_ranker(AUTO, encoder)
    centres = random.standard_normal((CENTRES, encoder.dim), dtype=np.float32)
    packed = [ranker.pack(make_segment(centre, num_frames, random, regions=REGIONS)) for centre in centres]
    with Store.create(
        path, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
    ) as store:
        made = {"name": ranker.name, "fingerprint": ranker.fingerprint, "tokens": "int8"}
        store.metadata.set(RANKER, json.dumps(made))
        for first in range(0, num_segments, SEGMENTS_PER_VIDEO):
            count, folder = min(SEGMENTS_PER_VIDEO, num_segments - first), first // SEGMENTS_PER_VIDEO % 2
            file = path / "files" / "ab"[folder] / f"{first}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            video = store.writer.begin_video(f"made-{first}", duration=count * SEGMENT_S, facts={}, num_segments=count)
            chosen = random.integers(CENTRES * 3 // 4, size=count) + folder * CENTRES // 4
            segments = []
            for number, centre in enumerate(chosen):
                start = SEGMENT_S * number
                vectors = make_segment(centres[centre], num_frames, random, start=start)
                segments.append(NewSegment(video, number, start, start + SEGMENT_S, vectors, packed[centre]))
            store.writer.add_segments(segments)
            store.writer.finish_video(video)
            store.writer.set_file(str(file), state="done", video=video, num_bytes=0, mtime_ns=0)
        store.upkeep.save_vectors()


def add_texts(path: Path, num_texts: int) -> None:
    """Store made texts for the videos of an index."""
    random = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    made = ["".join(random.choice(letters, random.integers(3, 11))) for _ in range(VOCABULARY)]
    words = np.array([word for query in UNRELATED for word in query.split()] + made)
    odds = 1 / np.arange(1, len(words) + 1)
    centres = random.standard_normal((CENTRES, DIM), dtype=np.float32)
    with Store.open(path) as store:
        contents = list(store.videos.contents())
    with TextStore.create(path, encoder=NAME, fingerprint=FINGERPRINT, dim=DIM) as texts:
        shares = np.array_split(np.arange(num_texts), len(contents))
        for number, (fingerprint, rows) in enumerate(zip(contents, shares, strict=True)):
            source: TextSource = "speech" if number % 2 else "screen"
            track = texts.begin(fingerprint, source, "made", duration_s=600.0)
            chosen = random.choice(len(words), (len(rows), WORDS_PER_TEXT), p=odds / odds.sum())
            starts = np.sort(random.uniform(0, 595, len(rows)))
            lines = [
                TimedText(float(start), float(start) + 3.0, " ".join(words[own]), source)
                for start, own in zip(starts, chosen, strict=True)
            ]
            noise = random.standard_normal((len(rows), DIM), dtype=np.float32)
            texts.add(track, lines, unit(centres[random.integers(CENTRES, size=len(rows))] + noise), until_s=600.0)
            texts.finish(track)
        texts.save()


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
    tokens = None
    if regions:
        noise = random.standard_normal((num_frames, regions, len(centre)), dtype=np.float32)
        tokens = unit(frames[:, None] + noise / len(centre) ** 0.5).reshape(-1, len(centre))
    return SegmentEmbedding(unit(frames.mean(0)), frames, times, tokens)


def unit(vectors: Float[np.ndarray, "*any dim"]) -> Float[np.ndarray, "*any dim"]:
    """Scale to unit length."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled
