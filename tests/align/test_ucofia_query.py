"""The training-free UCoFiA of a query in NumPy: equal to loops over words and tokens, and to the aligner on torch."""

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.align.naive import naive_aggregate
from vidret.align.batches import TextBatch
from vidret.align.prepared import PreparedVideos, pack_video, unpack_videos
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_query import BLOCK, score_queries
from vidret.types import TextEmbedding

DIM = 8


def naive_isa(similarities: Sequence[float], sizes: Sequence[float]) -> float:
    """Return the aggregated similarity, with every item as often as its size says."""
    listed = [value for value, size in zip(similarities, sizes, strict=True) for _ in range(int(size))]
    return naive_aggregate(listed)


def draw_units(random: np.random.Generator, num: int) -> np.ndarray:
    vectors = random.standard_normal((num, DIM)).astype(np.float32)
    units: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([torch.int8, torch.float16]),
)
def test_levels_equal_loops_and_the_aligner(
    seed: int, lengths: list[tuple[int, int]], is_merged: bool, dtype: torch.dtype
) -> None:
    random = np.random.default_rng(seed)
    text = TextEmbedding("words", draw_units(random, 1)[0], draw_units(random, 1 + seed % 4))
    frames = [draw_units(random, num) for num, _ in lengths]
    packed, tokens, sizes = [], [], []
    for video_frames, (_, num_tokens) in zip(frames, lengths, strict=True):
        size = random.integers(1, 5, num_tokens).astype(np.float32) if is_merged else np.ones(num_tokens, np.float32)
        whole, rows = (
            torch.from_numpy(video_frames.mean(0)[None]),
            torch.from_numpy(draw_units(random, num_tokens)[None]),
        )
        counts = torch.from_numpy(size[None]) if is_merged else None
        video = PreparedVideos(whole, torch.from_numpy(video_frames[None]), rows, sizes=counts).packed(dtype)
        packed.append(pack_video(video, whole=False))
        tokens.append(video.unpacked().tokens[0].double().numpy())
        sizes.append(size)
    (levels,) = score_queries([text], packed, frames)
    for index, (video_frames, stored) in enumerate(zip(frames, tokens, strict=True)):
        middle = video_frames.mean(0) / np.linalg.norm(video_frames.mean(0))
        cosines = [float(frame @ text.sentence) for frame in video_frames]
        by_word = [naive_isa([float(row @ word) for row in stored], sizes[index].tolist()) for word in text.words]
        assert abs(levels.segment[index] - middle @ text.sentence) < 1e-5
        assert abs(levels.frames[index] - naive_isa(cosines, [1] * len(cosines))) < 1e-4
        assert abs(levels.words[index] - sum(by_word) / len(by_word)) < 1e-4
        assert levels.best[index] == int(np.argmax(cosines))


def test_an_aligner_on_torch_gives_the_same_where_frames_are_the_tokens() -> None:
    random = np.random.default_rng(0)
    text, frames = TextEmbedding("words", draw_units(random, 1)[0], draw_units(random, 3)), draw_units(random, 6)
    (levels,) = score_queries([text], [b""], [frames])
    batch = TextBatch(torch.from_numpy(text.sentence[None]), torch.from_numpy(text.words[None]))
    torch_scores = Aligner().score(batch, unpack_videos([b""], [frames]))
    np.testing.assert_allclose(levels.frames, torch_scores.frame_sentence[0] / 100, atol=1e-5)
    np.testing.assert_allclose(levels.words, torch_scores.patch_word[0] / 100, atol=1e-5)


def test_videos_score_together_as_they_do_alone() -> None:
    random = np.random.default_rng(1)
    text = TextEmbedding("words", draw_units(random, 1)[0], draw_units(random, 3))
    frames = [draw_units(random, 1 + index % 4) for index in range(2 * BLOCK + 3)]
    packed = []
    for video_index, video_frames in enumerate(frames):
        tokens = torch.from_numpy(draw_units(random, 1 + video_index % 3)[None])
        video = PreparedVideos(
            torch.from_numpy(video_frames.mean(0)[None]), torch.from_numpy(video_frames[None]), tokens
        )
        packed.append(pack_video(video.packed(torch.int8), whole=False))
    (together,) = score_queries([text], packed, frames)
    alone = [score_queries([text], [data], [frame_rows])[0] for data, frame_rows in zip(packed, frames, strict=True)]
    for level, expected in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(level, np.concatenate(expected), atol=1e-5)
    untold = score_queries([text], [*packed[:-1], b""], frames)[0]  # one in another block lacks tokens
    for level, expected in zip(untold, score_queries([text], [b""] * len(frames), frames)[0], strict=True):
        np.testing.assert_array_equal(level, expected)
