"""Small videos whose frames show their own numbers, with captions or queries, and a fake encoder with layers."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.video.films import write_video
from vidret.types import Frames, LayerTokens, LayerWords, Resize, Sampling, SegmentEmbedding, TextEmbedding

RESIZE = Resize(32, 32)
RATE = 5
FAST = {"preset": "ultrafast", "g": "5"}


def write_numbered(path: Path, num_frames: int, *, first: int = 0, rate: int = RATE) -> Path:
    """Write a square video of numbered frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame_numbers = [(first + frame) % 256 for frame in range(num_frames)]
    return write_video(path, frame_numbers, size=(48, 48), rate=rate, options=FAST)


def write_captioned(folder: Path, captions: Sequence[int], *, num_frames: int = 15) -> Path:
    """Write videos v0, v1, ... with the given numbers of captions, and ``captions.jsonl``, into a folder."""
    lines = []
    for video, count in enumerate(captions):
        write_numbered(folder / "videos" / f"v{video}.mp4", num_frames + video, first=10 * video)
        lines.append({"video": f"v{video}", "captions": [f"caption {index} of {video}" for index in range(count)]})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


def write_moments(folder: Path, queries: Sequence[int], *, num_frames: int = 40) -> Path:
    """Write videos v0, v1, ... with the given numbers of queries, and ``moments.jsonl``, into a folder."""
    lines = []
    for video, count in enumerate(queries):
        video_frames = num_frames + 10 * video
        write_numbered(folder / "videos" / f"v{video}.mp4", video_frames, first=10 * video)
        labels = {"relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2], "saliency_scores": [[4, 2, 3], [1, 0, 2]]}
        for index in range(count):
            query = {"qid": 10 * video + index, "query": f"query {index}", "vid": f"v{video}"}
            lines.append(query | labels | {"duration": video_frames / RATE})
    (folder / "moments.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


def write_msvd(folder: Path, **splits: Sequence[str]) -> Path:
    """Write the annotation files of MSVD, which has its own splits, with a caption for each video."""
    texts = {video: [f"about {video}"] for videos in splits.values() for video in videos}
    (folder / "captions_msvd.json").write_text(json.dumps(texts))
    for name, videos in splits.items():
        (folder / f"{name}_list.txt").write_text("\n".join(videos))
    return folder


WIDTH, TEXT_WIDTH = 6, 5


class LayeredFake:
    """An encoder with four tokens per frame, the mean colours of its quarters; ``merging`` removes one per layer."""

    name, dim, resize, sampling = "layered", WIDTH, RESIZE, Sampling()

    def __init__(self, fingerprint: str = "one", *, merging: bool = False) -> None:
        self.fingerprint, self._merging = fingerprint, merging
        self.encodes_frames_alone = not merging
        self.num_frames = self.num_texts = 0

    def encode_layers(self, frames: Frames, num_layers: int) -> LayerTokens:
        self.num_frames += len(frames)
        quarters = frames.pixels.reshape(len(frames), 2, 16, 2, 16, 3).mean(axis=(2, 4)).reshape(-1, 4, 3) / 256
        tokens = np.concatenate([quarters, 1 - quarters], axis=2).astype(np.float32)
        layers = tuple(tokens[:, : 4 - self._merging * layer] * (layer + 1) for layer in range(num_layers))
        if not self._merging:
            return LayerTokens(layers, frames.times)
        masks = tuple(np.ones(layer.shape[:2], bool) for layer in layers)
        masks[-1][:, -1] = False
        return LayerTokens(layers, frames.times, tuple(mask * np.float32(2) for mask in masks), masks)

    def encode_text_layers(self, texts: Sequence[str], num_layers: int) -> list[LayerWords]:
        self.num_texts += len(texts)
        return [LayerWords(text, word_layers(text, num_layers)) for text in texts]

    def encode_frames(self, batch: object, *, tokens: bool = False, num_layers: int = 0) -> list[SegmentEmbedding]:
        raise NotImplementedError

    def encode_text(self, texts: object) -> list[TextEmbedding]:
        raise NotImplementedError


def word_layers(text: str, num_layers: int) -> np.ndarray:
    """Return the fake's layers of a text."""
    rng = np.random.default_rng(len(text))
    return rng.standard_normal((num_layers, 2 + len(text.split()), TEXT_WIDTH)).astype(np.float32)
