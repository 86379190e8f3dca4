"""Saliency labels against loops, padded batches, and the cache of encoder layers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.captioned import RESIZE, TEXT_WIDTH, WIDTH, LayeredFake, word_layers, write_moments
from tests.grounded import gather, look, make_encoder, write_numbers
from tests.video.films import write_video
from vidret.data.benchmarks.splits import read_split
from vidret.data.grounding import GroundingSample, LabelledVideos, collate, label_frames
from vidret.data.layers import LayersCache, VideoLayers, to_float16
from vidret.data.records import LabelledQuery, Split, VideoSpan
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.errors import VidretError
from vidret.ground.head import GroundingHead, HeadOutput
from vidret.ground.windows import Window
from vidret.types import Frames, Resize
from vidret.video.reader import read_frames

NUM_LAYERS = 2


def naive_labels(query: LabelledQuery, num_frames: int, fps: float, low: float, high: float) -> list[float]:
    labels = []
    for frame in range(num_frames):
        if query.saliency:
            centre_s, scores = (frame + 0.5) / fps, []
            for clip, clip_scores in zip(query.clips, query.saliency, strict=True):
                start, end = 2.0 * clip, 2.0 * clip + 2.0
                if query.clip_spans:
                    start, end = query.clip_spans[query.clips.index(clip)]
                if start <= centre_s < end:
                    scores.append(sum((score - low) / (high - low) for score in clip_scores) / len(clip_scores))
            labels.append(sum(scores) / len(scores) if scores else 0.0)
        else:
            inside = [math.ceil(start * fps) <= frame <= math.ceil(end * fps) - 1 for start, end in query.spans]
            labels.append(float(any(inside)))
    return labels


QUERIES = {
    "saliency": LabelledQuery(
        "1", "v", "t", 20.0, ((2.0, 6.0),), (1, 2, 7), ((4.0, 2.0, 3.0), (0.0, 1.0, 0.0), (4.0,) * 3)
    ),
    "spans": LabelledQuery("2", "v", "t", 20.0, ((0.3, 3.1), (8.0, 12.0), (19.0, 25.0))),
    "short span": LabelledQuery("3", "v", "t", 20.0, ((4.2, 4.6),)),
    "overlapping clips": LabelledQuery(
        "4", "v", "t", 20.0, (), (0, 1, 2), ((4.0,), (0.0,), (2.0,)), clip_spans=((0.0, 4.0), (2.0, 6.0), (4.0, 8.0))
    ),
    "nothing": LabelledQuery("5", "v", "t", 20.0),
}


@pytest.mark.parametrize("fps", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("name", QUERIES)
def test_frame_labels_match_naive_loops(name: str, fps: float) -> None:
    num_frames = math.ceil(20 * fps)
    labels = label_frames(QUERIES[name], num_frames, fps, 0.0, 4.0)
    assert labels.dtype == np.float32
    assert labels.tolist() == pytest.approx(naive_labels(QUERIES[name], num_frames, fps, 0.0, 4.0))


def test_saliency_out_of_range_is_refused() -> None:
    for low, high in ((1.0, 4.0), (0.0, 3.0)):
        with pytest.raises(
            VidretError, match=rf"query 1: saliency must be in {low:g}\.\.{high:g} \(saliency_range\), got"
        ):
            label_frames(QUERIES["saliency"], 10, 0.5, low, high)


def make_sample(
    num_frames: int, num_words: int, *, tokens: tuple[int, int] = (4, 4), masked: bool = False
) -> GroundingSample:
    rng = np.random.default_rng(num_frames)
    layers = tuple(rng.standard_normal((num_frames, count, WIDTH)).astype(np.float16) for count in tokens)
    sizes = tuple(rng.integers(1, 4, layer.shape[:2]).astype(np.float32) for layer in layers) if masked else None
    masks = tuple(np.arange(count) < count - 1 for count in tokens) if masked else None
    if masks is not None:
        masks = tuple(np.tile(mask, (num_frames, 1)) for mask in masks)
    words = rng.standard_normal((NUM_LAYERS, num_words, TEXT_WIDTH)).astype(np.float16)
    spans = np.arange(2 * (num_frames % 3), dtype=np.float32).reshape(-1, 2)
    video = VideoLayers(layers, 2.0 * num_frames, sizes, masks)
    return GroundingSample(num_frames, video, words, spans, np.ones(num_frames, np.float32))


def test_padding_is_last_zero_and_masked() -> None:
    batch = collate([make_sample(5, 3), make_sample(7, 6), make_sample(3, 4)])
    assert [layer.shape for layer in batch.layers] == [(3, 7, 4, WIDTH)] * 2
    assert batch.words.shape == (3, NUM_LAYERS, 6, TEXT_WIDTH)
    assert {batch.layers[0].dtype, batch.words.dtype} == {torch.float16}
    assert batch.frame_mask.sum(dim=1).tolist() == [5, 7, 3]
    assert batch.word_mask.sum(dim=1).tolist() == [3, 6, 4]
    assert batch.span_mask.tolist() == [[True, True], [True, False], [False, False]]
    assert batch.spans[1].tolist() == [[0, 1], [0, 0]]
    assert (batch.queries.tolist(), batch.durations.tolist()) == ([5, 7, 3], [10, 14, 6])
    assert batch.saliency.tolist() == batch.frame_mask.float().tolist()
    assert (batch.layers[0][~batch.frame_mask] == 0).all()
    assert (batch.token_masks, batch.sizes) == (None, None)


@pytest.mark.parametrize("masked", [False, True])
def test_padding_does_not_change_the_output_of_the_head(masked: bool) -> None:
    torch.manual_seed(0)
    head = GroundingHead(WIDTH, TEXT_WIDTH, 8, num_layers=NUM_LAYERS, heads=2, strides=(1, 2)).double().eval()
    samples = [make_sample(5, 3, tokens=(4, 3), masked=masked), make_sample(7, 6, tokens=(4, 4), masked=masked)]

    def run(chosen: list[GroundingSample]) -> torch.Tensor:
        batch = collate(chosen)
        mapped = head.prepare(batch.layers, mask=batch.frame_mask, token_masks=batch.token_masks, sizes=batch.sizes)
        seen: HeadOutput = head(mapped, batch.words, word_mask=batch.word_mask)
        return seen.video

    assert (collate(samples).token_masks is None, collate(samples).sizes is None) == (False, not masked)
    together = run(samples)
    for row, sample in enumerate(samples):
        alone = run([sample])[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-9, rtol=0)


@pytest.mark.parametrize("merging", [False, True])
def test_cached_layers_are_those_of_the_encoder_in_float16(tmp_path: Path, merging: bool) -> None:
    write_moments(tmp_path, [1, 2])
    split = read_split("moments", tmp_path)
    spans = {video: VideoSpan(str(tmp_path / "videos" / f"{video}.mp4")) for video in split.videos}
    texts = [query.text for query in split.queries]
    encoder = LayeredFake(merging=merging)
    cache = LayersCache(tmp_path / "cache", encoder, num_layers=NUM_LAYERS, fps=0.5, shots=False)
    cache.build(encoder, list(spans.values()), texts, num_workers=0)
    # Of 8 and 10 seconds; what sees a segment as a whole is given all 12 samples. Two texts are the same.
    assert (encoder.num_frames, encoder.num_texts) == (12 + 12 if merging else 4 + 5, 2)

    keys = {video: cache.entries.find(span)[0] for video, span in spans.items()}
    samples = LabelledVideos(split, cache, keys, fps=0.5, saliency_range=(0.0, 4.0))
    assert len(samples) == 3
    sample = samples[3, 1]  # epoch and row
    sampled = read_frames(spans["v1"].path, times=[(index + 0.5) * 10 / 12 for index in range(12)], resize=RESIZE)
    rows = [int(np.abs(sampled.times - middle).argmin()) for middle in (1, 3, 5, 7, 9)]
    expected = encoder.encode_layers(Frames(sampled.pixels[rows], sampled.times[rows]), NUM_LAYERS)
    for layer in range(NUM_LAYERS):
        np.testing.assert_array_equal(sample.video.layers[layer], expected.layers[layer].astype(np.float16))
        if merging:
            assert sample.video.sizes is not None
            assert sample.video.masks is not None
            assert expected.sizes is not None
            assert expected.masks is not None
            np.testing.assert_array_equal(sample.video.sizes[layer], expected.sizes[layer])
            np.testing.assert_array_equal(sample.video.masks[layer], expected.masks[layer])
    np.testing.assert_array_equal(sample.words, word_layers("query 0", NUM_LAYERS).astype(np.float16))
    assert (sample.query, sample.video.duration, sample.spans.tolist()) == (1, 10.0, [[2, 6]])
    assert sample.saliency.tolist() == pytest.approx([0, 9 / 12, 3 / 12, 0, 0])
    assert samples[1].saliency.tolist() == sample.saliency.tolist()


def test_late_video_start_does_not_change_the_layers(tmp_path: Path) -> None:
    encoder = LayeredFake()
    cache = LayersCache(tmp_path / "cache", encoder, num_layers=2, fps=0.5)
    spans = [VideoSpan(str(write_video(tmp_path / f"{n}.mp4", range(10), rate=1, shift=n, audio=True))) for n in (0, 7)]
    cache.build(encoder, spans, [], num_workers=0)
    keys = {span.path: cache.entries.find(span)[0] for span in spans}
    early, late = (cache.read_video(key) for key in keys.values())
    assert early.duration == late.duration == 10.0
    np.testing.assert_array_equal(late.layers, early.layers)
    queries = [
        LabelledQuery("1", span.path, "t", 17.0, ((start, start + 4.0),))
        for span, start in zip(spans, (2.0, 9.0), strict=True)
    ]
    rated = [replace(query, clips=(0,), saliency=((4.0,),), clip_spans=query.spans) for query in queries]
    cache.build(encoder, [], ["t"], num_workers=0)
    samples = LabelledVideos(
        Split("s", (), (), queries=(*queries, *rated)), cache, keys, fps=0.5, saliency_range=(0.0, 4.0)
    )
    for index in range(4):
        assert samples[index].spans.tolist() == [[2.0, 6.0]]
        assert samples[index].saliency.tolist() == [0, 1, 1, 0, 0]
    assert label_frames(queries[0].count_from(7.0), 5, 0.5, 0.0, 4.0).tolist() == [0] * 5, "before the first frame"


@pytest.mark.parametrize("options", [{"merging": True}, {"prompts": PromptShape(2, 4)}], ids=["merging", "prompts"])
def test_cached_segments_are_those_of_inference(tmp_path: Path, options: dict[str, Any]) -> None:
    """The video has 31 frames: two segments of 12, and one of 7 whose frames have fewer tokens."""
    encoder, span = make_encoder(**options), VideoSpan(str(write_numbers(tmp_path / "film.mp4", range(31))))
    cache = LayersCache(tmp_path / "cache", encoder, num_layers=3, fps=1.0)
    cache.build(encoder, [span], [], num_workers=0)
    cached = cache.read_video(cache.entries.find(span)[0])
    layers, masks, sizes = gather(look(Path(span.path), encoder, 1.0), Window(0, 31))
    for layer, expected in zip(cached.layers, layers, strict=True):
        np.testing.assert_allclose(layer, expected[0], atol=5e-3, rtol=1e-3)
    if masks is None:
        assert (cached.masks, cached.sizes) == (None, None)
        return
    assert sizes is not None
    assert cached.masks is not None
    assert cached.sizes is not None
    for mask, size, real, counts in zip(cached.masks, cached.sizes, masks, sizes, strict=True):
        np.testing.assert_array_equal(mask, real[0])
        np.testing.assert_array_equal(size, counts[0])


def test_layers_are_computed_once_per_settings(tmp_path: Path) -> None:
    write_moments(tmp_path, [1])
    span = VideoSpan(str(tmp_path / "videos" / "v0.mp4"))

    def build(*texts: str, fingerprint: str = "one", num_layers: int = 2, fps: float = 0.5) -> tuple[int, int]:
        encoder = LayeredFake(fingerprint)
        cache = LayersCache(tmp_path / "cache", encoder, num_layers=num_layers, fps=fps)
        cache.build(encoder, [span], texts, num_workers=0)
        assert cache.read_text("a").shape[0] == num_layers
        return encoder.num_frames, encoder.num_texts

    assert build("a", "b") == (4, 2)
    assert build("a", "b", "c", "a") == (0, 1)
    assert build("a") == (0, 0)
    assert build("a", fingerprint="two") == (4, 1)
    assert build("a", num_layers=1) == (4, 1)
    assert build("a", fps=1.0) == (8, 1)
    encoder = LayeredFake()
    encoder.resize = Resize(32, 32, "bilinear")
    LayersCache(tmp_path / "cache", encoder, num_layers=2, fps=0.5).build(encoder, [span], [], num_workers=0)
    assert encoder.num_frames == 4
    with pytest.raises(VidretError, match="must contain the layers of every query, got none for 'z'"):
        LayersCache(tmp_path / "cache", LayeredFake(), num_layers=2, fps=0.5).read_text("z")


def test_values_outside_float16_are_refused() -> None:
    for value in (1e5, math.nan, -math.inf):
        with pytest.raises(VidretError, match=r"a\.mp4: layers must be finite and below 65,504, got"):
            to_float16(np.array([1.0, value], np.float32), "a.mp4")
