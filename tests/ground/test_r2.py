"""The recurrent block, against loops written from the paper and against the published code."""

import math

import pytest
import torch
from torch import Tensor

from tests.goldens import Case, check_close, find_cases
from tests.ground.samples import DIM, NUM_LAYERS, Inputs, make_head, make_inputs, prepare, read_batch, read_single
from vidret.ground import r2
from vidret.ground.checkpoint import convert_head
from vidret.ground.head import GroundingHead
from vidret.ground.r2 import R2Attention, R2Output, Refine, cut_frames


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    bias = weights.get(f"{name}.bias")
    rows = torch.stack([(row * x).sum() for row in weights[f"{name}.weight"]])
    return rows if bias is None else rows + bias


def norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean()
    unit = centred / (centred.square().mean() + 1e-5).sqrt()
    return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def naive_map(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = linear(weights, f"{name}.2", norm(weights, f"{name}.0", x)).clamp(min=0)
    return linear(weights, f"{name}.6", norm(weights, f"{name}.4", hidden))


def naive_attention(
    weights: dict[str, Tensor], name: str, queries: list[Tensor], keys: list[Tensor], values: list[Tensor]
) -> list[Tensor]:
    heads, outputs = 8, []
    width = DIM // heads
    for row in queries:
        query, mixed = linear(weights, f"{name}.query", row), []
        for head in range(heads):
            channels = slice(head * width, (head + 1) * width)
            logits = [
                (query[channels] * linear(weights, f"{name}.key", key)[channels]).sum() / math.sqrt(width)
                for key in keys
            ]
            attention = torch.stack(logits).softmax(0)
            parts = [linear(weights, f"{name}.value", value)[channels] for value in values]
            mixed.append(sum((a * x for a, x in zip(attention, parts, strict=True)), torch.zeros(width)))
        outputs.append(linear(weights, f"{name}.out", torch.cat(mixed)))
    return outputs


def naive_positions(num_frames: int) -> list[Tensor]:
    rows = []
    for frame in range(1, num_frames + 1):
        angle = frame / (num_frames + 1e-6) * 2 * math.pi
        angles = [angle / 10000 ** (2 * (j // 2) / DIM) for j in range(DIM)]
        rows.append(torch.tensor([math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(angles)]).double())
    return rows


def naive_refine(weights: dict[str, Tensor], frames: list[Tensor], words: list[Tensor]) -> list[Tensor]:
    positions = naive_positions(len(frames))
    placed = [x + position for x, position in zip(frames, positions, strict=True)]
    updates = naive_attention(weights, "refine.cross", placed, words, words)
    frames = [norm(weights, "refine.cross_norm", x + y) for x, y in zip(frames, updates, strict=True)]
    placed = [x + position for x, position in zip(frames, positions, strict=True)]
    updates = naive_attention(weights, "refine.own", placed, placed, frames)
    frames = [norm(weights, "refine.own_norm", x + y) for x, y in zip(frames, updates, strict=True)]
    changed = [linear(weights, "refine.mlp.2", linear(weights, "refine.mlp.0", x).clamp(min=0)) for x in frames]
    return [norm(weights, "refine.mlp_norm", x + y) for x, y in zip(frames, changed, strict=True)]


def naive_pool(weights: dict[str, Tensor], tokens: list[Tensor], words: list[Tensor], key_bias: Tensor) -> Tensor:
    """Attend from each word to a frame's tokens; keys have a bias here, which must not matter."""
    pooled = []
    for word in words:
        query = linear(weights, "word_key", word)
        keys = [linear(weights, "token_key", token) + key_bias for token in tokens]
        attention = torch.stack([(query * key).sum() / math.sqrt(DIM) for key in keys]).softmax(0)
        pooled.append(sum((a * t for a, t in zip(attention, tokens, strict=True)), word.clone()))
    return torch.stack(pooled).amax(0)


def naive_motion(weights: dict[str, Tensor], frames: list[Tensor]) -> list[Tensor]:
    """Add to each frame a sum over its neighbours, each multiplied by the matrix of its distance."""
    kernel = weights["motion.weight"]
    reach, moved = kernel.shape[-1] // 2, []
    for t, frame in enumerate(frames):
        total = frame + weights["motion.bias"]
        for offset in range(-reach, reach + 1):
            if 0 <= t + offset < len(frames):
                total = total + torch.stack([(row * frames[t + offset]).sum() for row in kernel[..., reach + offset]])
        moved.append(total)
    return moved


def naive_block(weights: dict[str, Tensor], inputs: Inputs, *, tef: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Compute one unpadded video by loops: refined frames, and class tokens and words of each step."""
    key_bias = torch.randn(DIM).double()
    before: list[Tensor] = []
    classes, queries = [], []
    for i in reversed(range(len(inputs.layers))):
        video, query = inputs.layers[i][0], inputs.query[0, i]
        num_frames = len(video)
        tokens = []
        for t in range(num_frames):
            endpoints = torch.tensor([t / num_frames, (t + 1) / num_frames] if tef else []).double()
            tokens.append([naive_map(weights, "video_map", torch.cat([token, endpoints])) for token in video[t]])
        words = [naive_map(weights, "query_map", word) for word in query]
        frames = []
        for t in range(num_frames):
            x = tokens[t][0] + torch.tanh(weights["scales"][i]) * naive_pool(weights, tokens[t], words, key_bias)
            if before:
                gate = 1 / (1 + torch.exp(-weights["gates"][i]))
                x = gate * x + (1 - gate) * before[t]
            frames.append(x)
        if "motion.weight" in weights:
            frames = naive_motion(weights, frames)
        before = naive_refine(weights, frames, words)
        classes.append(torch.stack([first for first, *_ in tokens]))
        queries.append(torch.stack(words))
    return torch.stack(before), classes, queries


def walk(head: GroundingHead, inputs: Inputs) -> R2Output:
    output: R2Output = head.block(
        prepare(head, inputs), inputs.query, word_mask=inputs.word_mask, as_published=head.as_published
    )
    return output


@torch.no_grad()
@pytest.mark.parametrize(
    ("tef", "motion", "num_tokens"),
    [(True, 0, (2, 3, 2)), (False, 0, (2, 3, 2)), (True, 1, (2, 3, 2)), (True, 5, (2, 3, 2)), (True, 0, (1,))],
)
def test_the_block_equals_loops(tef: bool, motion: int, num_tokens: tuple[int, ...]) -> None:
    head = make_head(tef=tef, motion=motion, num_layers=len(num_tokens))
    inputs = make_inputs((3,), (2,), num_tokens=num_tokens)._replace(mask=None, word_mask=None)
    actual = walk(head, inputs)
    video, classes, words = naive_block(head.block.state_dict(), inputs, tef=tef)
    torch.testing.assert_close(actual.video[0], video)
    torch.testing.assert_close(actual.layer_videos[:, 0], torch.stack(classes))
    torch.testing.assert_close(actual.layer_words[:, 0], torch.stack(words))


@torch.no_grad()
def test_as_published_differs_only_with_padding() -> None:
    head, inputs = make_head(as_published=True), make_inputs((9, 5, 2), (6, 2, 4))
    actual = walk(head, inputs).video
    for row in range(3):
        alone = walk(head, inputs.take(row)).video[0]
        head.as_published = False
        assert torch.equal(walk(head, inputs.take(row)).video[0], alone)
        head.as_published = True
        worst = float((actual[row, : len(alone)] - alone).abs().max())
        assert (worst < 1e-12) == (row == 0)


@torch.no_grad()
def test_results_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    head, inputs = make_head(), make_inputs((9, 7), (4, 2), num_tokens=(5, 3, 4))
    expected = walk(head, inputs).video
    for tokens_at_once in (1, 20, 33):
        monkeypatch.setattr(r2, "TOKENS_AT_ONCE", tokens_at_once)
        torch.testing.assert_close(walk(head, inputs).video, expected, atol=1e-12, rtol=0)


def test_chunks_cover_all_frames_and_gradients_use_one() -> None:
    assert cut_frames(7, 50) == [slice(0, 7)]
    with torch.no_grad():
        assert cut_frames(45, 50) == [slice(0, 20), slice(20, 40), slice(40, 45)]
        assert cut_frames(2, 5000) == [slice(0, 1), slice(1, 2)]


@torch.no_grad()
def test_token_sizes_and_masks_weigh_attention() -> None:
    head, inputs = make_head(), make_inputs((4,), (3,), num_tokens=(4, 4, 4))._replace(mask=None, word_mask=None)
    repeated = [layer[:, :, [0, 1, 1, 2, 2, 2, 3]] for layer in inputs.layers]
    expected = head.block(head.prepare(repeated), inputs.query).video
    sizes = torch.tensor([1.0, 2, 3, 1]).expand(1, 4, 4)
    actual = head.block(head.prepare(inputs.layers, sizes=[sizes] * 3), inputs.query).video
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)  # log sizes are float32

    masks = [None, torch.tensor([True, True, False, True]).expand(1, 4, 4), None]
    spoilt = [layer.clone() for layer in inputs.layers]
    spoilt[1][:, :, 2] = math.nan
    unmasked = [inputs.layers[0], inputs.layers[1][:, :, [0, 1, 3]], inputs.layers[2]]
    actual = head.block(head.prepare(spoilt, token_masks=masks), inputs.query).video
    torch.testing.assert_close(actual, head.block(head.prepare(unmasked), inputs.query).video, atol=1e-12, rtol=0)


def test_an_untrained_block_uses_class_tokens_only_and_no_convolution_over_time() -> None:
    head, inputs = make_head(motion=3), make_inputs()
    assert head.block.motion is not None
    assert not torch.equal(walk(head, inputs).video, walk(make_head(), inputs).video)
    fresh = GroundingHead(24, 16, DIM, num_layers=NUM_LAYERS, motion=3).block
    assert fresh.motion is not None
    assert not any(weight.any() for weight in (fresh.gates, fresh.scales, *fresh.motion.parameters()))
    for size in (-1, 2):
        with pytest.raises(ValueError, match=f"motion must be an odd number of frames, got {size}"):
            GroundingHead(24, 16, DIM, motion=size)


def test_dropout_and_drop_path_apply_in_training_only() -> None:
    inputs = make_inputs((4,), (3,))
    head = make_head()
    with torch.no_grad():
        assert torch.equal(walk(head, inputs).video, walk(head, inputs).video)
        head.train()
        assert not torch.equal(walk(head, inputs).video, walk(head, inputs).video)
        layer = Refine(DIM, 8, drop_path=0.25).train()
        x, words, positions = torch.randn(4000, 1, DIM), torch.randn(4000, 2, DIM), torch.zeros(1, 1, DIM)
        changes = layer._drop(torch.ones_like(x))[:, 0, 0]
        assert sorted(set(changes.tolist())) == [0, pytest.approx(4 / 3)]
        assert float((changes == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
        assert not torch.equal(layer(x, words, positions), layer(x, words, positions))
        layer.drop_path = 0.0
        assert torch.equal(layer(x, words, positions), layer(x, words, positions))


def test_attention_over_padding_gives_no_nan_and_heads_must_divide_dim() -> None:
    attention = R2Attention(DIM, 8)
    x = torch.randn(2, 3, DIM)
    assert attention(x, x, x, mask=torch.tensor([[True, False, True], [False, False, False]])).isfinite().all()
    with pytest.raises(ValueError, match="heads must divide dim 16, got 3"):
        R2Attention(DIM, 3)


Steps = dict[str, Tensor]


def record_steps(head: GroundingHead) -> Steps:
    """Record the inputs and outputs of each step under the golden's names."""
    outputs: Steps = {}
    order = [*reversed(range(head.block.num_layers))]

    def refined(_: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        step = order[len([name for name in outputs if name.endswith("refined")])]
        outputs[f"step{step}.v_gated"], outputs[f"step{step}.refined"], outputs["pos_enc"] = (
            inputs[0],
            output,
            inputs[2],
        )

    def projected(_: object, __: object, output: Tensor) -> None:
        outputs.update({f"step{step}.q_emb": output[:, step] for step in order})

    head.block.refine.register_forward_hook(refined)
    head.block.query_map.register_forward_hook(projected)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize("case", find_cases("r2tuning"), ids=lambda case: case.folder.name)
def test_every_step_equals_the_published_one(case: Case) -> None:
    runs = [("batch", read_batch(case), True)]
    for video in range(len(case.config["case"]["lens"])):
        runs += [(f"single{video}", read_single(case, video), way) for way in (True, False)]
    for name, inputs, as_published in runs:
        head = convert_head(case.weights)
        head.as_published = as_published
        outputs = record_steps(head)
        output = walk(head, inputs)
        assert len(outputs) == 3 * head.block.num_layers + 1
        for key, value in outputs.items():
            expected = case.outputs[f"{name}.{key}"]
            check_close(value.expand_as(expected), expected)
        check_close(output.video, case.outputs[f"{name}.r2_out_before_relu"])
