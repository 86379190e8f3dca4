"""Tests of the grounding losses: naive versions from the equations, invariances, empty batches, published numbers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.goldens import Case, check_close, find_cases
from vidret.ground.head import HeadOutput
from vidret.train.grounding_losses import (
    GroundingLosses,
    PointTargets,
    contrast,
    focal_loss,
    grounding_loss,
    select_positive,
)

Batch = dict[str, Any]
GOLDENS = find_cases("r2tuning")
# Settings of a case that differ from the published defaults, by folder.
RECIPES: dict[str, Batch] = {"case_b": {"saliency_weight": 0.01}, "case_c": {"across_samples": False}}
DIFFERENTIABLE = ("logits", "distances", "video", "query", "layer_videos", "layer_queries")
LENGTHS = (9, 6, 4, 7)


def naive_mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def naive_focal(logits: Tensor, positive: Tensor, mask: Tensor) -> float:
    """Compute the focal loss by a loop over real points."""
    values = []
    for logit, label in zip(logits[mask].tolist(), positive[mask].tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        right = probability if label else 1 - probability
        values.append(-((1 - right) ** 2) * math.log(right))
    return naive_mean(values)


def naive_boundary(distances: Tensor, targets: PointTargets, mask: Tensor) -> float:
    """Compute the error of both distances by a loop over positive points."""
    values: list[float] = []
    for sample, point in (targets.positive & mask).nonzero().tolist():
        actual, target = distances[sample, point].tolist(), targets.distances[sample, point].tolist()
        values += [abs(actual[0] - target[0]), abs(actual[1] - target[1])]
    return naive_mean(values)


def naive_soft(logits: Tensor, saliency: Tensor, mask: Tensor) -> float:
    values = []
    for logit, label in zip(logits[mask].tolist(), saliency[mask].tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        values.append(-label * math.log(probability) - (1 - label) * math.log(1 - probability))
    return naive_mean(values)


def naive_cosine(a: Tensor, b: Tensor) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return float(dot / math.sqrt(sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist())))


def naive_nce(own: float, all_scores: list[float]) -> float:
    return -math.log(math.exp(own) / sum(math.exp(score) for score in all_scores))


def naive_saliency(batch: Batch, temperature: float, across_samples: bool) -> float:
    """Compute the loss by loops over samples, over their frames, and over other samples at the same position."""
    samples = [sample for sample, frame in enumerate(batch["positive"].tolist()) if frame >= 0]
    scores: dict[tuple[int, int], float] = {}
    for sample in samples:
        labels, positive = batch["saliency"][sample].tolist(), int(batch["positive"][sample])
        for frame in range(len(labels)):
            if batch["frame_mask"][sample, frame] and labels[frame] <= labels[positive]:
                cosine = naive_cosine(batch["video"][sample, frame], batch["query"][sample])
                scores[sample, frame] = cosine / temperature
    values = []
    for sample in samples:
        frame = int(batch["positive"][sample])
        own = scores[sample, frame]
        value = naive_nce(own, [score for (other, _), score in scores.items() if other == sample])
        if across_samples:
            value += naive_nce(own, [scores[other, frame] for other in samples if (other, frame) in scores])
        values.append(value)
    return naive_mean(values)


def naive_contrast(videos: Tensor, queries: Tensor, temperature: float) -> float:
    """Compute the symmetric InfoNCE loss by loops over groups and items."""
    values = []
    for group in range(videos.shape[0]):
        items = range(videos.shape[1])
        scores = [[naive_cosine(videos[group, i], queries[group, j]) / temperature for j in items] for i in items]
        for item in items:
            rows, columns = scores[item], [scores[other][item] for other in items]
            values.append((naive_nce(scores[item][item], rows) + naive_nce(scores[item][item], columns)) / 2)
    return naive_mean(values)


def make_batch(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, dtype: torch.dtype = torch.float64) -> Batch:
    """Return random outputs of a head and labels, for samples of given lengths; the last has no positive frame."""
    generator = torch.Generator().manual_seed(seed)
    samples, frames, layers, dim = len(lengths), max(lengths), 3, 5

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    frame_mask = torch.arange(frames) < torch.tensor(lengths)[:, None]
    positive = torch.tensor([int(torch.randint(length, (), generator=generator)) for length in lengths])
    positive[-1] = -1
    point_mask = torch.cat([frame_mask, frame_mask[:, :4]], dim=1)
    points = point_mask.shape[1]
    return {
        "logits": 2 * draw(samples, points),
        "distances": draw(samples, points, 2).exp(),
        "point_mask": point_mask,
        "video": draw(samples, frames, dim),
        "query": draw(samples, dim),
        "layer_videos": draw(layers, samples, frames, dim),
        "layer_queries": draw(layers, samples, dim),
        "frame_mask": frame_mask,
        "targets": PointTargets(draw(samples, points) > 0.5, draw(samples, points, 2).abs()),
        "saliency": torch.randint(6, (samples, frames), generator=generator).to(dtype) / 5,
        "positive": positive,
    }


def make_highlight_batch(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    batch = make_batch(seed, lengths)
    logits = batch["logits"][:, : batch["frame_mask"].shape[1]]
    return batch | {"logits": logits, "distances": None, "targets": None, "point_mask": batch["frame_mask"]}


def compute_losses(batch: Batch, **recipe: Any) -> GroundingLosses:
    """Return the losses of a batch, split into outputs of a head and labels."""
    labels = {name: batch[name] for name in ("targets", "saliency", "positive")}
    outputs = {name: batch[name] for name in HeadOutput._fields if name != "points"}
    return grounding_loss(HeadOutput(points=torch.empty(0, 4), **outputs), **labels, **recipe)


def gradients(batch: Batch, **recipe: Any) -> tuple[GroundingLosses, dict[str, Tensor]]:
    leaves = {name: batch[name].clone().requires_grad_() for name in DIFFERENTIABLE if batch[name] is not None}
    losses = compute_losses(batch | leaves, **recipe)
    grads = torch.autograd.grad(losses.total, list(leaves.values()))
    return GroundingLosses(*(term.detach() for term in losses)), dict(zip(leaves, grads, strict=True))


def check_values(actual: GroundingLosses, expected: list[float], tolerance: float = 1e-9) -> None:
    terms = [term.item() for term in actual]
    assert terms == pytest.approx(expected, abs=tolerance)
    assert actual.total.item() == pytest.approx(sum(terms), rel=1e-6)


@pytest.mark.parametrize("across_samples", [True, False])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_every_term_matches_its_naive_version(seed: int, temperature: float, across_samples: bool) -> None:
    batch = make_batch(seed)
    rows = batch["positive"] >= 0
    videos = batch["layer_videos"][:, rows, batch["positive"][rows]]
    queries = batch["layer_queries"][:, rows]
    expected = [
        2.0 * naive_focal(batch["logits"], batch["targets"].positive, batch["point_mask"]),
        3.0 * naive_boundary(batch["distances"], batch["targets"], batch["point_mask"]),
        5.0 * naive_saliency(batch, temperature, across_samples),
        7.0 * naive_contrast(videos, queries, temperature),
        0.5 * naive_contrast(videos.transpose(0, 1), queries.transpose(0, 1), temperature),
    ]
    assert min(expected) > 0
    found = compute_losses(
        batch,
        class_weight=2,
        boundary_weight=3,
        saliency_weight=5,
        video_calibration_weight=7,
        layer_calibration_weight=0.5,
        temperature=temperature,
        across_samples=across_samples,
    )
    check_values(found, expected)


def test_highlight_head_compares_logits_with_saliency() -> None:
    batch = make_highlight_batch()
    found = compute_losses(batch, across_samples=False)
    assert float(found.classes) == pytest.approx(naive_soft(batch["logits"], batch["saliency"], batch["frame_mask"]))
    assert found.boundaries.item() == 0
    assert float(found.saliency) == pytest.approx(0.1 * naive_saliency(batch, 0.07, across_samples=False))


def test_weights_are_those_of_the_recipe() -> None:
    batch = make_batch()
    names = ("class", "boundary", "saliency", "video_calibration", "layer_calibration")
    plain = compute_losses(batch, **{f"{name}_weight": 1.0 for name in names})
    weights = zip(plain, (1, 0.2, 0.1, 0.1, 0.1), strict=True)
    check_values(compute_losses(batch), [float(term) * weight for term, weight in weights])


@pytest.mark.parametrize("garbage", [0.0, 1e6, math.nan, math.inf])
@pytest.mark.parametrize("make", [make_batch, make_highlight_batch])
def test_padding_has_no_effect(make: Any, garbage: float) -> None:
    batch = make()
    expected, slopes = gradients(batch)
    frames, points = ~batch["frame_mask"], ~batch["point_mask"]
    spoilt = dict(batch)
    for name, hidden in {"logits": points, "distances": points, "video": frames, "saliency": frames}.items():
        if batch[name] is not None:
            at = hidden if batch[name].ndim == 2 else hidden[..., None]
            spoilt[name] = batch[name].masked_fill(at, garbage)
    spoilt["layer_videos"] = batch["layer_videos"].masked_fill(frames[..., None], garbage)
    if batch["targets"] is not None:
        positive, distances = batch["targets"]
        spoilt["targets"] = PointTargets(positive | points, distances.masked_fill(points[..., None], garbage))
    found, spoilt_slopes = gradients(spoilt)
    check_values(found, [term.item() for term in expected], tolerance=0)
    for name, slope in slopes.items():
        assert slope.isfinite().all()
        assert torch.equal(spoilt_slopes[name], slope)


def test_more_padding_has_no_effect() -> None:
    batch = make_batch()
    longer = dict(batch)
    for name in ("logits", "point_mask", "frame_mask", "saliency"):
        longer[name] = torch.nn.functional.pad(batch[name], (0, 3))
    for name in ("distances", "video", "layer_videos"):
        longer[name] = torch.nn.functional.pad(batch[name], (0, 0, 0, 3))
    positive, distances = batch["targets"]
    longer["targets"] = PointTargets(
        torch.nn.functional.pad(positive, (0, 3)), torch.nn.functional.pad(distances, (0, 0, 0, 3))
    )
    check_values(compute_losses(longer), [term.item() for term in compute_losses(batch)], tolerance=1e-12)


def test_order_of_samples_and_layers_has_no_effect() -> None:
    batch, order = make_batch(), torch.tensor([2, 0, 3, 1])
    turned: Batch = {
        name: value[order] for name, value in batch.items() if name not in ("layer_videos", "layer_queries", "targets")
    }
    turned["targets"] = PointTargets(*(part[order] for part in batch["targets"]))
    for name in ("layer_videos", "layer_queries"):
        turned[name] = batch[name][:, order].flip(0)
    check_values(compute_losses(turned), [term.item() for term in compute_losses(batch)])


def test_sample_without_a_positive_frame_is_left_out_of_terms_that_need_one() -> None:
    batch = make_batch()
    found, slopes = gradients(batch)
    without: Batch = {
        name: value[:-1] for name, value in batch.items() if name not in ("layer_videos", "layer_queries", "targets")
    }
    without["targets"] = PointTargets(*(part[:-1] for part in batch["targets"]))
    for name in ("layer_videos", "layer_queries"):
        without[name] = batch[name][:, :-1]
        assert not slopes[name][:, -1].any()
    assert [term.item() for term in found[2:]] == pytest.approx([term.item() for term in compute_losses(without)[2:]])
    assert not slopes["video"][-1].any()
    assert not slopes["query"][-1].any()
    assert slopes["logits"][-1].any()


def test_batch_without_positives_has_zero_terms() -> None:
    batch = make_batch()
    batch["targets"] = PointTargets(torch.zeros_like(batch["targets"].positive), batch["targets"].distances)
    batch["positive"] = torch.full_like(batch["positive"], -1)
    losses, slopes = gradients(batch)
    assert losses.classes > 0
    assert [term.item() for term in losses[1:]] == [0, 0, 0, 0]
    assert slopes.pop("logits").any()
    assert not any(slope.any() for slope in slopes.values())  # NaN would be any


def test_batch_of_padding_only_has_zero_loss() -> None:
    batch = make_batch()
    batch["positive"] = torch.full_like(batch["positive"], -1)
    for name in ("frame_mask", "point_mask"):
        batch[name] = torch.zeros_like(batch[name])
    losses, slopes = gradients(batch)
    assert losses.total.item() == 0
    assert not any(slope.any() for slope in slopes.values())


def test_position_masked_in_every_sample_gives_no_nan() -> None:
    """Positions 0 and 3 are more salient than each positive frame, or padding; the published code has NaN gradients."""
    batch = make_batch(lengths=(4, 3, 3))
    batch["positive"] = torch.tensor([1, 2, 1])
    batch["saliency"] = torch.tensor([[1.0, 0.5, 0.5, 0.9], [1.0, 0.5, 0.5, 0], [1.0, 0.5, 0.5, 0]]).double()
    losses, slopes = gradients(batch)
    assert float(losses.saliency) == pytest.approx(0.1 * naive_saliency(batch, 0.07, across_samples=True))
    assert all(slope.isfinite().all() for slope in slopes.values())


def test_frames_more_salient_than_the_positive_one_are_not_negatives() -> None:
    batch = make_batch()
    batch["saliency"] = torch.zeros_like(batch["saliency"])
    batch["saliency"][:, 2] = 0.5
    batch["saliency"][:, 1] = 1.0
    batch["positive"] = torch.tensor([2, 2, 2, 2])
    _, slopes = gradients(batch, across_samples=False, layer_calibration_weight=0, video_calibration_weight=0)
    moved = slopes["video"].abs().sum(dim=-1) > 0
    assert not moved[:, 1].any()
    assert torch.equal(moved[:, 2:], batch["frame_mask"][:, 2:])


@pytest.mark.parametrize("lengths", [(1,), (1, 1), (5,)])
def test_smallest_batches_have_finite_losses(lengths: tuple[int, ...]) -> None:
    batch = make_batch(lengths=(*lengths, 3))
    losses, slopes = gradients(batch)
    assert all(slope.isfinite().all() for slope in slopes.values())
    if lengths == (1,):
        assert losses.saliency.item() == pytest.approx(0, abs=1e-12)
    if len(lengths) == 1:
        assert losses.video_calibration.item() == pytest.approx(0, abs=1e-12)


def test_single_layer_has_no_layer_calibration() -> None:
    batch = make_batch()
    for name in ("layer_videos", "layer_queries"):
        batch[name] = batch[name][:1]
    assert compute_losses(batch).layer_calibration.item() == pytest.approx(0, abs=1e-12)


def test_frame_of_zeros_has_a_finite_gradient() -> None:
    batch = make_batch()
    batch["video"][0] = 0
    batch["layer_videos"][:, 0] = 0
    losses, slopes = gradients(batch)
    assert losses.total.isfinite()
    assert all(slope.isfinite().all() for slope in slopes.values())


def test_focal_loss_at_its_limits() -> None:
    truth, mask = torch.tensor([[True, False]]), torch.ones(1, 2, dtype=torch.bool)
    assert focal_loss(torch.tensor([[40.0, -40.0]]), truth, mask).item() == 0
    assert focal_loss(torch.zeros(1, 2), truth, mask).item() == pytest.approx(math.log(2) / 4)
    far = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = focal_loss(far, truth, mask)
    assert loss.item() == pytest.approx(1e4)
    (slope,) = torch.autograd.grad(loss, far)
    assert slope.tolist() == [[-0.5, 0.5]]


def test_perfect_predictions_have_zero_loss() -> None:
    batch = make_batch()
    batch["logits"] = 100 * (2.0 * batch["targets"].positive - 1)
    batch["distances"] = batch["targets"].distances
    same = torch.nn.functional.one_hot(torch.arange(3), 5).double()
    batch["layer_videos"] = same[:, None, None].expand(3, 4, 9, 5)
    batch["layer_queries"] = same[:, None].expand(3, 4, 5)
    found = compute_losses(batch)
    assert found.classes.item() == pytest.approx(0, abs=1e-12)
    assert found.boundaries.item() == 0
    assert found.layer_calibration.item() == pytest.approx(0, abs=1e-6)
    assert found.video_calibration.item() == pytest.approx(0.1 * math.log(3))  # three samples that are all the same


def test_contrast_ignores_vector_lengths() -> None:
    batch = make_batch()
    videos, queries = select_positive(
        *(batch[name] for name in ("layer_videos", "layer_queries", "frame_mask", "positive"))
    )
    expected = contrast(videos, queries)
    torch.testing.assert_close(contrast(3 * videos, 0.2 * queries), expected)
    torch.testing.assert_close(contrast(queries, videos), expected)


def test_gradients_match_finite_differences() -> None:
    for batch in (make_batch(1, (4, 2, 3)), make_highlight_batch(1, (4, 2, 3))):
        names = [name for name in DIFFERENTIABLE if batch[name] is not None]

        def total(*values: Tensor, batch: Batch = batch, names: list[str] = names) -> Tensor:
            return compute_losses(batch | dict(zip(names, values, strict=True)), temperature=0.5).total

        assert torch.autograd.gradcheck(total, [batch[name].requires_grad_() for name in names])


def test_half_precision_is_computed_in_float32() -> None:
    batch = make_batch(dtype=torch.float32)
    expected = [term.item() for term in compute_losses(batch)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_values(compute_losses(batch), expected, tolerance=0)
    halves = {name: batch[name].bfloat16() for name in DIFFERENTIABLE}
    found = compute_losses(batch | halves)
    assert {term.dtype for term in found} == {torch.float32}
    rounded = {name: value.float() for name, value in halves.items()}
    check_values(found, [term.item() for term in compute_losses(batch | rounded)], tolerance=0)


@pytest.mark.parametrize("frame", [9, 8, -5])
def test_positive_frame_of_padding_is_refused(frame: int) -> None:
    batch = make_batch()
    batch["positive"][1] = frame  # the sample has six frames of nine
    with pytest.raises(ValueError, match=rf"positive must be .* got .*{frame}"):
        compute_losses(batch)


def test_targets_without_boundaries_are_refused() -> None:
    with pytest.raises(ValueError, match="targets must be given if boundaries is True, got False"):
        compute_losses(make_batch() | {"targets": None})


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.folder.name)
def test_losses_match_published_code(case: Case) -> None:
    inputs, outputs = case.inputs, case.outputs
    num_layers, has_spans = case.config["case"]["k"], "loss.loss_reg" in outputs
    levels = [outputs[name] for name in sorted(outputs) if name.startswith("batch.pyramid_mask_")]
    queries = torch.cat([outputs[f"batch.pooled_query_call{1 + step}"] for step in range(num_layers)], dim=1)
    output = HeadOutput(
        logits=outputs["batch.out_class"].squeeze(-1),
        distances=outputs["batch.out_coord"] if has_spans else None,
        points=outputs["batch.point"],
        point_mask=torch.cat(levels, dim=1) > 0,
        video=outputs["batch.video_emb"],
        query=outputs["batch.query_emb"].squeeze(1),
        layer_videos=torch.stack([outputs[f"batch.coll_v_step{step}"] for step in reversed(range(num_layers))]),
        layer_queries=queries.transpose(0, 1),
        frame_mask=outputs["batch.video_msk"] > 0,
    )
    found = grounding_loss(
        output,
        targets=PointTargets(outputs["target.cls"] > 0, outputs["target.reg"]) if has_spans else None,
        saliency=inputs["saliency"],
        positive=inputs["pos_clip"].squeeze(1),
        **RECIPES.get(case.folder.name, {}),
    )
    terms = {
        "loss.loss_cls": found.classes,
        "loss.loss_reg": found.boundaries,
        "loss.loss_sal": found.saliency,
        "loss.loss_video_cal": found.video_calibration,
        "loss.loss_layer_cal": found.layer_calibration,
        "loss.total": found.total,
    }
    golden = {name: value for name, value in outputs.items() if name.startswith("loss.")}
    assert "loss.total" in golden
    for name, value in golden.items():
        check_close(terms[name], value.squeeze(), atol=1e-6)
