"""The grounding head: against loops and the published code, invariance to padding, and rejected input."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.goldens import Case, check_close, find_cases
from tests.ground.samples import DIM, Inputs, make_head, make_inputs, prepare, read_batch, read_single
from vidret.ground.checkpoint import convert_head
from vidret.ground.head import GroundingHead, GroundingResult, HeadOutput, WordPooling

CASES = find_cases("r2tuning")


def naive_pooling(weight: Tensor, words: Tensor) -> Tensor:
    scores = torch.stack([(weight[0] * word).sum() for word in words])
    weights = (scores - scores.max()).exp() / (scores - scores.max()).exp().sum()
    return torch.stack([a * word for a, word in zip(weights, words, strict=True)]).sum(0)


def naive_result(output: HeadOutput, video: int, *, fps: float, limit: int, cosine: bool) -> GroundingResult:
    """Decode one unpadded video: spans of all points, and the best score of each frame."""
    spans: list[list[float]] = []
    levels: dict[int, list[float]] = {}
    num_frames = output.video.shape[1]
    for point in range(len(output.points)):
        position, _, _, stride = output.points[point].tolist()
        score = 1 / (1 + math.exp(-float(output.logits[video, point])))
        levels.setdefault(int(stride), []).append(score)
        if output.distances is not None:
            before, after = output.distances[video, point].tolist()
            spans.append([(position - before * stride) / fps, (position + after * stride) / fps, score])
    saliency = []
    for frame in range(num_frames):
        score = max(rows[min(frame // stride, len(rows) - 1)] for stride, rows in levels.items())
        one, other = output.video[video, frame], output.query[video]
        saliency.append(score * (float((one @ other) / (one.norm() * other.norm())) if cosine else 1))
    spans.sort(key=lambda span: -span[2])
    return GroundingResult(np.array(spans[:limit]).reshape(-1, 3), np.array(saliency))


def run(head: GroundingHead, inputs: Inputs) -> HeadOutput:
    output: HeadOutput = head(prepare(head, inputs), inputs.query, word_mask=inputs.word_mask)
    return output


def check_result(actual: GroundingResult, expected: GroundingResult, atol: float) -> None:
    assert actual.spans.shape == expected.spans.shape
    np.testing.assert_allclose(actual.spans, expected.spans, atol=atol, rtol=0)
    np.testing.assert_allclose(actual.saliency, expected.saliency, atol=atol, rtol=0)


@torch.no_grad()
def test_word_pooling_equals_loops_and_ignores_padding() -> None:
    torch.manual_seed(0)
    pooling, words = WordPooling(DIM).double(), torch.randn(2, 5, DIM).double()
    actual = pooling(words, torch.tensor([[True] * 5, [True, True, False, False, False]]))
    torch.testing.assert_close(actual[0], naive_pooling(pooling.score.weight, words[0]))
    torch.testing.assert_close(actual[1], naive_pooling(pooling.score.weight, words[1, :2]))
    torch.testing.assert_close(pooling(words)[1], naive_pooling(pooling.score.weight, words[1]))


@torch.no_grad()
@pytest.mark.parametrize("boundaries", [True, False])
def test_decoding_equals_loops(boundaries: bool) -> None:
    head = make_head(boundaries=boundaries, strides=(1, 2, 4) if boundaries else (1,))
    head.limit = 8
    output = run(head, make_inputs((9, 9), (4, 4)))
    for video, answer in enumerate(head.decode(output, fps=0.5)):
        expected = naive_result(output, video, fps=0.5, limit=8, cosine=boundaries)
        assert len(answer.spans) == (8 if boundaries else 0)
        check_result(answer, expected, 1e-10)


@torch.no_grad()
@pytest.mark.parametrize("garbage", [0.0, math.nan, math.inf])
@pytest.mark.parametrize(("tef", "boundaries", "motion"), [(True, True, 3), (False, True, 0), (False, False, 0)])
def test_padding_does_not_change_results(garbage: float, tef: bool, boundaries: bool, motion: int) -> None:
    head = make_head(tef=tef, boundaries=boundaries, motion=motion)
    inputs = make_inputs((9, 5, 2, 1), (4, 2, 6, 1), garbage=garbage)
    output = run(head, inputs)
    answers = head.decode(output, fps=0.5)
    for row in range(4):
        alone = inputs.take(row)
        expected = run(head, alone)
        frames, real = alone.layers[0].shape[1], output.point_mask[row]
        assert torch.equal(output.points[real, 0], expected.points[:, 0])
        assert torch.equal(output.points[real, 3], expected.points[:, 3])
        pairs = [
            (output.logits[row, real], expected.logits[0]),
            (output.video[row, :frames], expected.video[0]),
            (output.query[row], expected.query[0]),
            (output.layer_videos[:, row, :frames], expected.layer_videos[:, 0]),
            (output.layer_queries[:, row], expected.layer_queries[:, 0]),
        ]
        if output.distances is not None and expected.distances is not None:
            pairs.append((output.distances[row, real], expected.distances[0]))
        for actual, wanted in pairs:
            torch.testing.assert_close(actual, wanted, atol=1e-10, rtol=0)
        check_result(answers[row], head.decode(expected, fps=0.5)[0], 1e-10)
        assert (output.video[row, frames:] == 0).all()


def test_mixed_precision_keeps_outputs_in_float32() -> None:
    head, inputs = make_head().float(), make_inputs((9, 5), (4, 2))
    exact = run(head, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(head, inputs)
        assert output.distances is not None
        output.distances[output.point_mask].sum().backward()  # type: ignore[no-untyped-call]
    for tensor in (output.logits, output.distances, output.video, output.query, output.layer_queries):
        assert tensor.dtype == torch.float32
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in head.parameters())
    moved = (output.logits.sigmoid() - exact.logits.sigmoid()).detach()[output.point_mask].abs()
    assert 0 < float(moved.max()) < 0.05


def test_gradients_reach_every_weight() -> None:
    for boundaries in (True, False):
        head = make_head(boundaries=boundaries, motion=3)
        output = run(head, make_inputs(garbage=math.nan))
        total = output.logits[output.point_mask].sum() + output.layer_queries.square().sum()
        total = (
            total + functional.cosine_similarity(output.video, output.query[:, None], dim=-1)[output.frame_mask].sum()
        )
        if output.distances is not None:
            total = total + output.distances[output.point_mask].sum()
        total.backward()  # type: ignore[no-untyped-call]
        for name, weight in head.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert (weight.grad != 0).any(), name


@torch.no_grad()
def test_masked_tokens_in_padding_frames_give_no_nan() -> None:
    head, inputs = make_head(), make_inputs((4, 2), (3, 3), garbage=math.nan)
    assert inputs.mask is not None
    masks = [inputs.mask[..., None].expand(2, 4, 5)] * 3
    projected = head.prepare(inputs.layers, mask=inputs.mask, token_masks=masks)
    output = head(projected, inputs.query, word_mask=inputs.word_mask)
    assert torch.equal(output.logits, run(head, inputs).logits)


@pytest.mark.wrong_shapes
def test_invalid_input_is_rejected() -> None:
    head, inputs = make_head(), make_inputs((4, 3), (3, 2))
    assert inputs.mask is not None
    layers, mask = inputs.layers, inputs.mask
    projected = head.prepare(layers, mask=mask)
    no_class = [torch.zeros(2, 4, 5, dtype=torch.bool)] * 3
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: head.prepare(layers[:2]), r"layers must be 3 with equal videos and frames, got \[\(2, 4, 5, 24\)"),
        (lambda: head.prepare([*layers[:2], layers[2][:, :3]]), "layers must be 3 with equal videos and frames"),
        (
            lambda: head.prepare(layers, mask=mask.int()),
            r"mask must be bool of shape \(2, 4\), got torch.int32 \(2, 4\)",
        ),
        (
            lambda: head.prepare(layers, mask=mask[:, :3]),
            r"mask must be bool of shape \(2, 4\), got torch.bool \(2, 3\)",
        ),
        (lambda: head.prepare(layers, mask=mask.flip(1)), "mask must be True up to a video's end and False after it"),
        (lambda: head.prepare(layers, mask=mask & False), "mask must be True up to a video's end and False after it"),
        (lambda: head.prepare(layers, token_masks=no_class), "token_masks must be True for the class token"),
        (lambda: head(projected, inputs.query[:1]), r"query must have 2 videos and 3 layers, got \(1, 3, 3, 16\)"),
        (lambda: head(projected, inputs.query[:, :2]), r"query must have 2 videos and 3 layers, got \(2, 2, 3, 16\)"),
        (
            lambda: head(projected, inputs.query, word_mask=torch.zeros(2, 3, dtype=torch.bool)),
            "word_mask must have a True for each query",
        ),
        (lambda: head.decode(run(head, inputs), fps=0), "fps must be positive, got 0"),
        (lambda: GroundingHead(limit=0), "limit and num_layers must be at least 1"),
        (lambda: GroundingHead(dropout=1), r"dropout and drop_path in 0..1 \(1 excluded\), got 50, 4, 1 and 0.1"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@torch.no_grad()
@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder.name)
def test_single_videos_equal_the_published_results(case: Case, as_published: bool) -> None:
    config = case.config["case"]
    head = convert_head(case.weights)
    head.limit, head.as_published = config["maxm"], as_published
    head.cosine = config["over"].get("merge_cls_sal", head.cosine)
    for video in range(len(config["lens"])):
        (answer,) = head.decode(run(head, read_single(case, video)), fps=config["fps"])
        check_close(torch.from_numpy(answer.saliency), case.outputs[f"single{video}.saliency"])
        if head.boundaries is None:
            assert f"single{video}.boundary_raw" not in case.outputs
        else:
            check_close(torch.from_numpy(answer.spans), case.outputs[f"single{video}.boundary_raw"])


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder.name)
def test_as_published_a_padded_batch_equals_the_published_output(case: Case) -> None:
    expected = {name.removeprefix("batch."): value for name, value in case.outputs.items() if name.startswith("batch.")}
    head, inputs = convert_head(case.weights), read_batch(case)
    default_output = run(head, inputs)
    head.as_published = True
    output = run(head, inputs)
    check_close(output.logits, expected["out_class"].squeeze(-1))
    check_close(output.points, expected["point"])
    check_close(output.video, expected["video_emb"])
    check_close(output.query, expected["query_emb"].squeeze(1))
    assert torch.equal(output.frame_mask.long(), expected["video_msk"])
    masks = [expected[f"pyramid_mask_{level}"] for level in range(len(head.pyramid.strides))]
    assert torch.equal(output.point_mask.long(), torch.cat(masks, dim=1))
    num_layers = head.block.num_layers
    for step in range(num_layers):
        check_close(output.layer_videos[step], expected[f"coll_v_step{num_layers - 1 - step}"])
        check_close(output.layer_queries[step], expected[f"pooled_query_call{step + 1}"].squeeze(1))
    if output.distances is None:
        assert "out_coord" not in expected
    else:
        check_close(output.distances, expected["out_coord"])
    assert float((default_output.logits - output.logits)[default_output.point_mask].abs().max()) > 1e-2
