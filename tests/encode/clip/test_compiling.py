"""Tests of compiled vision towers: the same vectors, and few compilations whatever the number of frames."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.train.small import METHODS, TEXT, VISION
from vidret.encode.clip.model import Card, ClipModel
from vidret.encode.clip.vision import compile_tower

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.filterwarnings("ignore:The .grad attribute"),  # torch's own, of what it traces
]


@pytest.mark.parametrize("method", [pytest.param("clip", marks=pytest.mark.slow), "tempme", "joint"])
def test_compiling_ends_with_videos_of_any_number_of_frames(method: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    graphs = list[int]()

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(len(inputs))
        return graph.forward

    added = {} if method == "clip" else METHODS[method]
    model = ClipModel(Card(method, "tiny", VISION, TEXT, **added)).eval()
    tower = model.vision
    lengths = [6, 12] if method == "joint" else range(1, 13)
    images = {num: torch.randn(2 * num, 3, 32, 32) for num in lengths}
    with torch.inference_mode():
        expected = {num: tower(images[num], num_frames=num, tokens=True) for num in lengths}
        compile_tower(tower, backend)
        for num in lengths:
            found = tower(images[num], num_frames=num, tokens=True)
            torch.testing.assert_close(found.frames, expected[num].frames)
            torch.testing.assert_close(found.tokens, expected[num].tokens)
    assert 0 < len(graphs) <= 8, "as many as there are kinds of layers, not of lengths"
