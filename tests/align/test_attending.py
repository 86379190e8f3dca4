"""X-Pool's attention and the mean of the top frames: equality with naive versions, properties, and files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.rankers import save_aligner
from vidret.align.attending import FrameAttention, TopFrames
from vidret.align.batches import TextBatch, VideoBatch, take_rows
from vidret.align.files import load_aligner
from vidret.align.glscl import ConceptAligner, ConceptVideos

DIM, TOP = 8, 2


def naive_attention(part: FrameAttention, sentence: Tensor, frames: list[Tensor]) -> Tensor:
    """Return X-Pool's vector of a video for a text, from equations 4 to 7 of the paper and its layer norms."""
    query = part.query(part.norm(sentence))
    keys, values = ([layer(part.norm(frame)) for frame in frames] for layer in (part.key, part.value))
    weights = torch.stack([query @ key / DIM**0.5 for key in keys]).softmax(dim=0)
    attended = torch.zeros(DIM)
    for weight, value in zip(weights, values, strict=True):
        attended += weight * value
    pooled = part.norm_pooled(part.out(attended))
    vector: Tensor = part.norm_out(part.linear(pooled) + pooled)
    return vector


def naive_top(sentence: Tensor, frames: list[Tensor]) -> Tensor:
    """Return the sum of the directions of the frames with the highest cosines."""
    directions = [frame / frame.norm() for frame in frames]
    directions.sort(key=lambda direction: -float(direction @ sentence))
    return torch.stack(directions[:TOP]).sum(dim=0)


def make_aligner(kind: str) -> ConceptAligner:
    torch.manual_seed(0)
    if kind == "top":
        return ConceptAligner(attention=TopFrames(TOP))
    aligner = ConceptAligner(attention=FrameAttention(DIM)).eval()
    with torch.no_grad():
        for weight in aligner.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return aligner


def make_batch() -> tuple[TextBatch, VideoBatch]:
    """Return 3 texts and 4 videos of 5, 3, 1 and no frames, with padding at any position."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1, [0, 3]] = mask[2, 1:] = mask[3] = False
    frames = torch.randn(4, 5, DIM, generator=generator).masked_fill(~mask[..., None], torch.nan)
    sentences = torch.randn(3, DIM, generator=generator)
    return TextBatch(sentences, sentences[:, None]), VideoBatch(frames, frame_mask=mask)


@pytest.mark.parametrize("kind", ["attention", "top"])
@torch.no_grad()
def test_pooling_equals_loops_and_is_the_same_from_a_file(kind: str, tmp_path: Path) -> None:
    aligner, (texts, videos) = make_aligner(kind), make_batch()
    prepared = aligner.prepare(videos)
    found = aligner.score(texts, prepared)
    assert videos.frame_mask is not None
    for row, sentence in enumerate(texts.sentences):
        for column in range(3):
            frames = list(videos.frames[column][videos.frame_mask[column]])
            vector = (
                naive_attention(aligner.attention, sentence, frames)
                if isinstance(aligner.attention, FrameAttention)
                else naive_top(sentence, frames)
            )
            cosine = float(sentence @ vector / (sentence.norm() * vector.norm()))
            assert float(found.total[row, column]) == pytest.approx(cosine, abs=1e-5)
    assert (found.total[:, 3] == 0).all(), "a video of padding"

    save_aligner(aligner, tmp_path / "aligner.safetensors")
    again = load_aligner(tmp_path / "aligner.safetensors")
    assert isinstance(again, ConceptAligner)
    assert torch.equal(again.score(texts, again.prepare(videos)).total, found.total)
    packed = [take_rows(prepared, slice(row, row + 1)).pack() for row in range(4)]
    stored = again.score(texts, ConceptVideos.unpack(packed))
    torch.testing.assert_close(stored.total, found.total, atol=3e-3, rtol=0)


def test_attention_starts_as_identities_and_trains_every_weight() -> None:
    aligner, (texts, videos) = ConceptAligner(attention=FrameAttention(DIM)), make_batch()
    aligner.eval()
    first = texts.sentences[0] - texts.sentences[0].mean()
    initial = aligner(
        aligner.prepare_texts(TextBatch(first[None], first[None, None])),
        aligner.prepare(VideoBatch(first.expand(1, 4, DIM))),
    )
    assert initial.total.item() == pytest.approx(1, abs=1e-3), "identities and layer norms keep a direction"
    scores = aligner.train()(aligner.prepare_texts(texts), aligner.prepare(videos)).total
    torch.autograd.backward(scores.square().sum())
    for name, weight in aligner.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
