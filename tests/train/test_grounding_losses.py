"""Tests of the grounding losses: naive versions from the equations, invariances, empty batches, published numbers."""

import math
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from tests.goldens import Case, check_close, find_cases
from vidret.ground.checkpoint import convert_head
from vidret.ground.head import GroundingHead, HeadOutput
from vidret.train.grounding_losses import TEMPERATURE, PointTargets, find_targets, focal_loss, grounding_losses
from vidret.train.losses import Terms, add_terms

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


def naive_nce(positive_score: float, all_scores: list[float]) -> float:
    return -math.log(math.exp(positive_score) / sum(math.exp(score) for score in all_scores))


def naive_saliency(batch: Batch, across_samples: bool) -> float:
    """Compute the loss by loops over samples, over their frames, and over other samples at the same position."""
    samples = [sample for sample, frame in enumerate(batch["positive"].tolist()) if frame >= 0]
    scores: dict[tuple[int, int], float] = {}
    for sample in samples:
        labels, positive = batch["saliency"][sample].tolist(), int(batch["positive"][sample])
        for frame in range(len(labels)):
            if batch["frame_mask"][sample, frame] and labels[frame] <= labels[positive]:
                cosine = naive_cosine(batch["video"][sample, frame], batch["query"][sample])
                scores[sample, frame] = cosine / TEMPERATURE
    values = []
    for sample in samples:
        frame = int(batch["positive"][sample])
        positive_score = scores[sample, frame]
        value = naive_nce(positive_score, [score for (other, _), score in scores.items() if other == sample])
        if across_samples:
            value += naive_nce(positive_score, [scores[other, frame] for other in samples if (other, frame) in scores])
        values.append(value)
    return naive_mean(values)


def naive_contrast(videos: Tensor, queries: Tensor) -> float:
    """Compute the symmetric InfoNCE loss by loops over groups and items."""
    values = []
    for group in range(videos.shape[0]):
        items = range(videos.shape[1])
        scores = [[naive_cosine(videos[group, i], queries[group, j]) / TEMPERATURE for j in items] for i in items]
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


def compute_losses(batch: Batch, **recipe: Any) -> Terms:
    """Return the losses of a batch, split into outputs of a head and labels."""
    labels = {name: batch[name] for name in ("targets", "saliency", "positive")}
    outputs = {name: batch[name] for name in HeadOutput._fields if name != "points"}
    return grounding_losses(HeadOutput(points=torch.empty(0, 4), **outputs), **labels, **recipe)


def gradients(batch: Batch, **recipe: Any) -> tuple[Terms, dict[str, Tensor]]:
    leaves = {name: batch[name].clone().requires_grad_() for name in DIFFERENTIABLE if batch[name] is not None}
    losses = compute_losses(batch | leaves, **recipe)
    grads = torch.autograd.grad(add_terms(losses), list(leaves.values()))
    return {name: term.detach() for name, term in losses.items()}, dict(zip(leaves, grads, strict=True))


@pytest.mark.parametrize("across_samples", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_every_term_matches_its_naive_version(seed: int, across_samples: bool) -> None:
    batch = make_batch(seed)
    rows = batch["positive"] >= 0
    videos = batch["layer_videos"][:, rows, batch["positive"][rows]]
    queries = batch["layer_queries"][:, rows]
    expected = {
        "classes": naive_focal(batch["logits"], batch["targets"].positive, batch["point_mask"]),
        "boundaries": 0.2 * naive_boundary(batch["distances"], batch["targets"], batch["point_mask"]),
        "saliency": 5.0 * naive_saliency(batch, across_samples),
        "video_calibration": 0.1 * naive_contrast(videos, queries),
        "layer_calibration": 0.1 * naive_contrast(videos.transpose(0, 1), queries.transpose(0, 1)),
    }
    assert min(expected.values()) > 0
    losses = compute_losses(batch, saliency_weight=5, across_samples=across_samples)
    assert {name: term.item() for name, term in losses.items()} == pytest.approx(expected, abs=1e-9)


def test_highlight_head_compares_logits_with_saliency() -> None:
    batch = make_highlight_batch()
    losses = compute_losses(batch, across_samples=False)
    soft = naive_soft(batch["logits"], batch["saliency"], batch["frame_mask"])
    assert losses["classes"].item() == pytest.approx(soft)
    assert losses["boundaries"].item() == 0
    assert losses["saliency"].item() == pytest.approx(0.1 * naive_saliency(batch, across_samples=False))


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
    assert found == expected
    for name, slope in slopes.items():
        assert slope.isfinite().all()
        assert torch.equal(spoilt_slopes[name], slope)


@pytest.mark.parametrize("only_padding", [False, True])
def test_batch_without_positives_has_zero_terms(only_padding: bool) -> None:
    batch = make_batch()
    batch["targets"] = PointTargets(torch.zeros_like(batch["targets"].positive), batch["targets"].distances)
    batch["positive"] = torch.full_like(batch["positive"], -1)
    for name in ("frame_mask", "point_mask") if only_padding else ():
        batch[name] = torch.zeros_like(batch[name])
    losses, slopes = gradients(batch)
    assert (losses.pop("classes").item() == 0) is only_padding
    assert [term.item() for term in losses.values()] == [0, 0, 0, 0]
    assert slopes.pop("logits").any() != only_padding
    assert not any(slope.any() for slope in slopes.values())  # NaN would be any


def test_position_masked_in_every_sample_gives_no_nan() -> None:
    """Positions 0 and 3 are more salient than each positive frame, or padding; the published code has NaN gradients."""
    batch = make_batch(lengths=(4, 3, 3))
    batch["positive"] = torch.tensor([1, 2, 1])
    batch["saliency"] = torch.tensor([[1.0, 0.5, 0.5, 0.9], [1.0, 0.5, 0.5, 0], [1.0, 0.5, 0.5, 0]]).double()
    losses, slopes = gradients(batch)
    assert losses["saliency"].item() == pytest.approx(0.1 * naive_saliency(batch, across_samples=True))
    assert all(slope.isfinite().all() for slope in slopes.values())


@pytest.mark.parametrize("lengths", [(1,), (1, 1), (5,)])
def test_smallest_batches_have_finite_losses(lengths: tuple[int, ...]) -> None:
    losses, slopes = gradients(make_batch(lengths=(*lengths, 3)))
    assert all(slope.isfinite().all() for slope in slopes.values())
    if len(lengths) == 1:
        assert losses["video_calibration"].item() == pytest.approx(0, abs=1e-12)


def test_focal_loss_at_its_limits() -> None:
    truth, mask = torch.tensor([[True, False]]), torch.ones(1, 2, dtype=torch.bool)
    assert focal_loss(torch.tensor([[40.0, -40.0]]), truth, mask).item() == 0
    assert focal_loss(torch.zeros(1, 2), truth, mask).item() == pytest.approx(math.log(2) / 4)
    far = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = focal_loss(far, truth, mask)
    assert loss.item() == pytest.approx(1e4)
    (slope,) = torch.autograd.grad(loss, far)
    assert slope.tolist() == [[-0.5, 0.5]]


def test_gradients_match_finite_differences() -> None:
    for batch in (make_batch(1, (4, 2, 3)), make_highlight_batch(1, (4, 2, 3))):
        names = [name for name in DIFFERENTIABLE if batch[name] is not None]

        def total(*values: Tensor, batch: Batch = batch, names: list[str] = names) -> Tensor:
            return add_terms(compute_losses(batch | dict(zip(names, values, strict=True))))

        assert torch.autograd.gradcheck(total, [batch[name].requires_grad_() for name in names])


def test_half_precision_is_computed_in_float32() -> None:
    batch = make_batch(dtype=torch.float32)
    expected = compute_losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compute_losses(batch) == expected
    halves = {name: batch[name].bfloat16() for name in DIFFERENTIABLE}
    losses = compute_losses(batch | halves)
    assert {term.dtype for term in losses.values()} == {torch.float32}
    assert losses == compute_losses(batch | {name: value.float() for name, value in halves.items()})


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
    losses = grounding_losses(
        output,
        targets=PointTargets(outputs["target.cls"] > 0, outputs["target.reg"]) if has_spans else None,
        saliency=inputs["saliency"],
        positive=inputs["pos_clip"].squeeze(1),
        **RECIPES.get(case.folder.name, {}),
    )
    names = ("loss_cls", "loss_reg", "loss_sal", "loss_video_cal", "loss_layer_cal")
    terms = {f"loss.{name}": term for name, term in zip(names, losses.values(), strict=True)}
    terms["loss.total"] = add_terms(losses)
    golden = {name: value for name, value in outputs.items() if name.startswith("loss.")}
    assert "loss.total" in golden
    for name, value in golden.items():
        check_close(terms[name], value.squeeze(), atol=1e-6)


# A training step from CLIP's layers to gradients.

STEPS = [case for case in GOLDENS if (case.folder / "grads.safetensors").exists()]


def read_batch(case: Case) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Return the layers of videos, the frame mask, the layers of queries and the word mask, with infinite padding."""
    sizes, num_layers = case.config["clip_dims"], case.config["case"]["k"]
    video, query = case.inputs["video"], case.inputs["query"]
    layers = rearrange(video, "b t (k token width) -> k b t token width", k=num_layers, token=sizes["tokens"])
    words = rearrange(query, "b word (k width) -> b k word width", k=num_layers)
    return list(layers), video[..., 0].isfinite(), words, query[..., 0].isfinite()


def lose(case: Case, head: GroundingHead) -> Tensor:
    layers, frame_mask, words, word_mask = read_batch(case)
    output = head(head.prepare(layers, mask=frame_mask), words, word_mask=word_mask)
    targets = None
    if head.boundaries is not None:
        spans = case.inputs["boundary"]
        span_mask, num_frames = spans.isfinite().all(dim=-1), frame_mask.sum(dim=1)
        targets = find_targets(output.points, spans, span_mask, num_frames, fps=case.config["case"]["fps"])
    recipe = RECIPES.get(case.folder.name, {})
    positive = case.inputs["pos_clip"].squeeze(1)
    saliency = case.inputs["saliency"]
    return add_terms(grounding_losses(output, targets=targets, saliency=saliency, positive=positive, **recipe))


@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.folder.name)
def test_training_step_matches_published_code(case: Case) -> None:
    head = convert_head(case.weights, heads=case.config["heads"])
    head.as_published = True
    total = lose(case, head)
    check_close(total, case.outputs["loss.total"].squeeze(), atol=1e-5)
    torch.autograd.backward(total)
    gradients = {
        name.removeprefix("grad."): value for name, value in load_file(case.folder / "grads.safetensors").items()
    }
    expected = dict(convert_head(gradients, heads=case.config["heads"]).named_parameters())
    assert expected.keys() == dict(head.named_parameters()).keys()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        check_close(parameter.grad, expected[name].detach(), atol=1e-5)


@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.folder.name)
def test_training_step_ignores_infinite_padding(case: Case) -> None:
    """Padding is infinite here, and must have no effect."""
    head = convert_head(case.weights, heads=case.config["heads"])
    total = lose(case, head)
    torch.autograd.backward(total)
    assert total.isfinite()
    assert total.item() != pytest.approx(case.outputs["loss.total"].item(), abs=1e-3)
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
