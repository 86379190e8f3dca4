"""Windows that run together: the results of each alone, and what may share a batch."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ground.samples import NUM_LAYERS, TEXT_WIDTH, make_head, make_inputs, pack, prepare
from vidret.ground.head import GroundingHead
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import LEAST_FULL, MOST_WINDOWS, cut_batches, ground_windows

LENGTHS = (9, 1, 8, 9, 2, 10, 9)
DTYPES = (torch.float64, torch.float16, torch.int8)


def draw_windows(
    head: GroundingHead, lengths: Sequence[int], dtype: torch.dtype, num_tokens: tuple[int, ...] = (5, 5, 5)
) -> list[ProjectedVideos]:
    windows = []
    for seed, length in enumerate(lengths):
        inputs = make_inputs((length,), (3,), num_tokens=num_tokens, seed=seed)
        windows.append(pack(prepare(head, inputs._replace(mask=None)), dtype))
    return windows


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("as_published", [False, True])
def test_windows_together_give_the_results_of_each_alone(dtype: torch.dtype, *, as_published: bool) -> None:
    head = make_head(as_published=as_published).float() if dtype != torch.float64 else make_head()
    windows = draw_windows(head, LENGTHS, dtype) + draw_windows(head, (9, 9), dtype, (4, 5, 3))
    query = torch.randn(NUM_LAYERS, 6, TEXT_WIDTH, generator=torch.Generator().manual_seed(3))
    together = ground_windows(head, query, windows, fps=0.5)
    with torch.inference_mode():
        alone = [head.decode(head(window, query[None]), fps=0.5)[0] for window in windows]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-6)
        np.testing.assert_allclose(one.spans, other.spans, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(1, 80), max_size=60), st.booleans())
def test_batches_hold_every_window_once_and_little_padding(lengths: list[int], pads: bool) -> None:
    windows = [ProjectedVideos((torch.empty(1, length, 2, 1),), (None,), (None,)) for length in lengths]
    batches = list(cut_batches(windows, pads=pads))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        own = [lengths[index] for index in batch]
        assert 1 <= len(batch) <= MOST_WINDOWS
        assert min(own) >= (LEAST_FULL if pads else 1) * max(own)
