"""GLSCL: equality with naive versions, properties, and results of the published code."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.goldens import Case, check_close, find_cases
from tests.rankers import save_aligner
from vidret.align.attending import SoftmaxAttention, TopFrames
from vidret.align.batches import TextBatch, VideoBatch, take_rows
from vidret.align.files import convert_concepts, load_aligner
from vidret.align.glscl import (
    AT_ONCE,
    TEXTS,
    VIDEOS,
    ConceptAligner,
    ConceptFinder,
    ConceptScores,
    ConceptTexts,
    ConceptVideos,
    consistency_loss,
    diversity_loss,
)
from vidret.errors import AlignerError
from vidret.layers import TemporalTransformer

DIM = 32


def naive_attend(attention: nn.MultiheadAttention, rows: list[Tensor], memory: list[Tensor]) -> list[Tensor]:
    """Return the attention output of each row over the memory, head by head."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    size, out = attention.head_dim, []
    for row in rows:
        query = weights[0] @ row + biases[0]
        keys, values = ([weights[n] @ row + biases[n] for row in memory] for n in (1, 2))
        attended = torch.zeros_like(row)
        for head in range(attention.num_heads):
            head_slice = slice(head * size, (head + 1) * size)
            head_weights = torch.stack([query[head_slice] @ key[head_slice] * size**-0.5 for key in keys]).softmax(
                dim=0
            )
            for weight, value in zip(head_weights, values, strict=True):
                attended[head_slice] += weight * value[head_slice]
        out.append(attention.out_proj(attended))
    return out


def naive_concepts(aligner: ConceptAligner, memory: list[Tensor]) -> list[Tensor]:
    """Return the output of the post-norm decoder for each seed; the memory has no padding."""
    assert aligner.finder is not None
    rows = list(aligner.finder.seeds)
    for layer in aligner.finder.decoder:
        assert isinstance(layer, nn.TransformerDecoderLayer)
        seen = naive_attend(layer.self_attn, rows, rows)
        rows = [layer.norm1(row + update) for row, update in zip(rows, seen, strict=True)]
        seen = naive_attend(layer.multihead_attn, rows, memory)
        rows = [layer.norm2(row + update) for row, update in zip(rows, seen, strict=True)]
        rows = [layer.norm3(row + layer.linear2(layer.linear1(row).relu())) for row in rows]
    return [row / row.norm() for row in rows]


def naive_pair(
    aligner: ConceptAligner, sentence: Tensor, words: list[Tensor], frames: list[Tensor]
) -> tuple[float, ...]:
    """Return total, pooled and shared score and the best frame of a text and the contextualized frames of a video."""
    attention = aligner.attention
    assert isinstance(attention, SoftmaxAttention)
    weights = torch.stack([sentence @ frame / attention.temperature for frame in frames]).softmax(dim=0)
    video = torch.zeros_like(sentence)
    for weight, frame in zip(weights, frames, strict=True):
        video += weight * frame
    pooled = float(sentence @ video / (sentence.norm() * video.norm()))
    pairs = list(zip(naive_concepts(aligner, words), naive_concepts(aligner, frames), strict=True))
    shared = sum(float(text @ seen) for text, seen in pairs) / len(pairs)
    return pooled + aligner.share * shared, pooled, shared, float(weights.argmax())


def naive_diversity(concepts: Tensor, margin: float) -> float:
    num, loss = concepts.shape[1], 0.0
    gram = [[float(sum(c[i] @ c[j] for c in concepts)) / len(concepts) for j in range(num)] for i in range(num)]
    for i in range(num):
        for j in range(num):
            if i != j:
                loss += max(0, margin + gram[i][j] - gram[i][i]) + max(0, margin + gram[i][j] - gram[j][j])
    return loss / (num * (num - 1))


def make_aligner() -> ConceptAligner:
    aligner = ConceptAligner(
        temporal=TemporalTransformer(DIM, layers=2, num_positions=9),
        finder=ConceptFinder(DIM, num_concepts=3, layers=2, heads=4, hidden=40),
        attention=SoftmaxAttention(3.0),
    ).eval()
    with torch.no_grad():
        for weight in aligner.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    return aligner


def make_batch() -> dict[str, Tensor]:
    """Return 3 texts and 4 videos of various lengths, with padding at any position."""
    frame_mask = torch.ones(4, 5, dtype=torch.bool)
    frame_mask[1, [0, 3]] = frame_mask[2, 1:] = False
    word_mask = torch.ones(3, 6, dtype=torch.bool)
    word_mask[0, 4:] = word_mask[2, 1:] = False
    return {
        "frames": torch.randn(4, 5, DIM),
        "frame_mask": frame_mask,
        "sentences": torch.randn(3, DIM),
        "words": torch.randn(3, 6, DIM),
        "word_mask": word_mask,
    }


def prepare(aligner: ConceptAligner, batch: dict[str, Tensor]) -> tuple[ConceptTexts, ConceptVideos]:
    texts = aligner.prepare_texts(TextBatch(batch["sentences"], batch["words"], batch["word_mask"]))
    return texts, aligner.prepare(VideoBatch(batch["frames"], frame_mask=batch["frame_mask"]))


def run(aligner: ConceptAligner, batch: dict[str, Tensor]) -> ConceptScores:
    return aligner.score(*prepare(aligner, batch))


def check_same(one: ConceptScores, two: ConceptScores) -> None:
    for name in ("total", "pooled", "shared", "best_frame"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), atol=2e-6, rtol=0)


@torch.no_grad()
def test_scores_equal_loops() -> None:
    aligner, batch = make_aligner(), make_batch()
    found = run(aligner, batch)
    assert found.total.shape == (3, 4)
    assert aligner.temporal is not None
    contexts = aligner.temporal(batch["frames"], batch["frame_mask"])
    for text in range(3):
        words = list(batch["words"][text][batch["word_mask"][text]])
        for video in range(4):
            mask = batch["frame_mask"][video]
            *scores, best = naive_pair(aligner, batch["sentences"][text], words, list(contexts[video][mask]))
            for name, score in zip(("total", "pooled", "shared"), scores, strict=True):
                assert float(getattr(found, name)[text, video]) == pytest.approx(score, abs=1e-5), name
            assert found.best_frame[text, video] == mask.nonzero()[int(best), 0]


@torch.no_grad()
def test_losses_equal_loops() -> None:
    texts, videos = (functional.normalize(torch.randn(5, 4, 6) + 4, dim=-1) for _ in range(2))
    assert float(diversity_loss(videos)) == pytest.approx(naive_diversity(videos, 0.1), abs=1e-5)
    means = (videos.mean(dim=0) - texts.mean(dim=0)).square().mean()
    agreed = sum((float(sum(texts[b, q] @ videos[b, q] for b in range(5))) / 4 - 0.75) ** 2 for q in range(4))
    assert float(consistency_loss(texts, videos, beta=0.3)) == pytest.approx(float(means) + 0.3 * agreed, abs=1e-5)
    assert float(diversity_loss(torch.eye(4).expand(2, 4, 4))) == 0, "orthogonal concepts have no loss"
    assert float(diversity_loss(torch.ones(2, 1, 1))) == 0, "a single concept has no loss"


@torch.no_grad()
def test_content_of_padding_has_no_effect() -> None:
    aligner, batch = make_aligner(), make_batch()
    other = dict(batch)
    for name, mask in (("frames", "frame_mask"), ("words", "word_mask")):
        other[name] = batch[name].masked_fill(~batch[mask][..., None], float("nan"))
    check_same(run(aligner, batch), run(aligner, other))


@torch.no_grad()
def test_video_of_padding_scores_0_and_text_without_words_uses_its_sentence() -> None:
    aligner, batch = make_aligner(), make_batch()
    before = run(aligner, batch)
    batch["frame_mask"][3] = batch["word_mask"][1] = False
    found = run(aligner, batch)
    assert (found.total[:, 3] == 0).all()
    assert (found.shared[1] == 0).all()
    check_close(found.pooled[:, :3], before.pooled[:, :3], 1e-6)
    check_close(found.total[[0, 2], :3], before.total[[0, 2], :3], 1e-6)


@torch.no_grad()
def test_blocks_equal_the_whole_and_candidates_can_be_selected() -> None:
    aligner = make_aligner()
    videos = aligner.prepare(VideoBatch(torch.randn(2 * VIDEOS + 3, 2, DIM)))
    texts = aligner.prepare_texts(TextBatch(torch.randn(TEXTS + 1, DIM), torch.randn(TEXTS + 1, 2, DIM)))
    whole = aligner(texts, videos)
    check_same(aligner.score(texts, videos), whole)
    rows = torch.tensor([VIDEOS, 0, 5])
    check_close(aligner.score(texts, take_rows(videos, rows)).total, whole.total[:, rows], 2e-6)
    assert aligner.score(texts, take_rows(videos, slice(0))).total.shape == (TEXTS + 1, 0)


@torch.no_grad()
def test_no_texts_and_no_videos_are_scored() -> None:
    aligner, batch = make_aligner(), make_batch()
    nothing = {name: values[:0] for name, values in batch.items()}
    no_texts = {name: nothing[name] for name in ("sentences", "words", "word_mask")}
    assert run(aligner, {**batch, **no_texts}).total.shape == (0, 4)
    assert run(aligner, {**nothing, **{name: batch[name] for name in no_texts}}).total.shape == (3, 0)


def test_concepts_of_many_texts_are_found_some_at_a_time() -> None:
    aligner = make_aligner()
    assert aligner.finder is not None
    videos = aligner.prepare(VideoBatch(torch.randn(3, 2, DIM)))
    texts = TextBatch(torch.randn(2 * AT_ONCE + 1, DIM), torch.randn(2 * AT_ONCE + 1, 2, DIM))
    expected, sizes = aligner(aligner.prepare_texts(texts), videos), list[int]()
    aligner.finder.register_forward_hook(lambda _finder, inputs, _output: sizes.append(len(inputs[0])))
    check_same(aligner.score(texts, videos), expected)
    assert sizes == [AT_ONCE, AT_ONCE, 1]


def test_gradients_are_finite_and_reach_every_weight() -> None:
    aligner, batch = make_aligner().train(), make_batch()
    batch["frame_mask"][3] = batch["word_mask"][1] = False  # empty rows must be harmless
    batch["frames"].requires_grad_()
    texts, videos = prepare(aligner, batch)
    scores = aligner(texts, videos).total
    loss = scores.square().sum() + diversity_loss(videos.concepts)
    loss = loss + consistency_loss(texts.concepts, videos.concepts[:3])
    torch.autograd.backward(loss)
    for name, weight in aligner.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().sum() > 0, name
    assert batch["frames"].grad is not None
    assert batch["frames"].grad.isfinite().all()
    assert (batch["frames"].grad[~batch["frame_mask"]] == 0).all()


def test_wrong_shapes_are_rejected(tmp_path: Path) -> None:
    aligner = make_aligner()
    with pytest.raises(ValueError, match=r"mask must be bool \(1, 2\), got torch.bool \(1, 3\)"):
        aligner.prepare(VideoBatch(torch.zeros(1, 2, DIM), frame_mask=torch.ones(1, 3, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"mask must be bool \(1, 2\), got torch.int64 \(1, 2\)"):
        aligner.prepare_texts(
            TextBatch(torch.zeros(1, DIM), torch.zeros(1, 2, DIM), torch.ones(1, 2, dtype=torch.int64))
        )
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        SoftmaxAttention(0)
    with pytest.raises(ValueError, match="top must be at least 1, got -1"):
        TopFrames(-1)
    with pytest.raises(ValueError, match=r"finder must have seeds of shape \(4, 32\) as word_finder"):
        ConceptAligner(finder=ConceptFinder(DIM, num_concepts=3), word_finder=ConceptFinder(DIM, num_concepts=4))
    with pytest.raises(ValueError, match="aligner must be trained"):
        save_aligner(ConceptAligner(), tmp_path / "aligner.safetensors")


@torch.no_grad()
def test_without_a_head_the_score_is_the_pooling() -> None:
    batch = make_batch()
    trained = make_aligner()
    trained.attention = SoftmaxAttention(0.3)
    found = run(ConceptAligner(attention=SoftmaxAttention(0.3)), batch)
    assert torch.equal(found.total, found.pooled)
    for text in range(3):
        for video in range(4):
            frames = list(batch["frames"][video, batch["frame_mask"][video]])
            expected = naive_pair(trained, batch["sentences"][text], [batch["words"][text, 0]], frames)
            assert float(found.pooled[text, video]) == pytest.approx(expected[1], abs=1e-5)


# Results of the published code.

CASES = find_cases("glscl")


def convert_case(case: Case) -> ConceptAligner:
    aligner = convert_concepts(case.weights)
    assert aligner.attention.temperature == case.config["config"]["temp"]
    return aligner


def run_case(case: Case, aligner: ConceptAligner) -> tuple[ConceptTexts, ConceptVideos]:
    """Return both sides prepared as in the published code, where concepts attend to padding."""
    inputs = case.inputs
    mask, words = inputs["video_mask"].bool(), inputs["text_feat"]
    assert aligner.temporal is not None
    frames = aligner.temporal(inputs["frame_feat"], mask)
    concepts = aligner.find_concepts(frames, torch.ones_like(mask))
    texts = ConceptTexts(
        inputs["sentence"], aligner.find_concepts(words, torch.ones(words.shape[:2], dtype=torch.bool), of_words=True)
    )
    return texts, ConceptVideos(frames, mask, concepts).with_grams()


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder.name)
def test_features_and_similarities_equal_published_code(case: Case) -> None:
    aligner, golden = convert_case(case), case.outputs
    texts, videos = run_case(case, aligner)
    check_close(videos.frames, golden["video_feat_temporal"])
    check_close(videos.concepts, golden["concepts_video"])
    check_close(texts.concepts, golden["concepts_text"])
    scores = aligner.score(texts, videos)
    check_close(scores.pooled, golden["sim_global"], 1e-4)
    check_close(scores.shared, golden["sim_local"], 1e-4)
    check_close(scores.total, golden["sim_eval"], 1e-4)
    check_close(scores.total, golden["sim_train"], 1e-4)


class Published(nn.Module):
    """The head of GLSCL's published code, with all its weights; ``separate`` corresponds to ``cross_att_share 0``."""

    def __init__(self, *, separate: bool, layers: int = 2) -> None:
        super().__init__()
        self.frame_position_embeddings = nn.Embedding(9, DIM)
        self.weight_fc = nn.Sequential(nn.Linear(2 * DIM, 4 * DIM), nn.ReLU(), nn.Linear(4 * DIM, 1))
        self.noun_queries, self.spatial_queries = (nn.Parameter(torch.rand(3, DIM)) for _ in range(2))
        self.decoder_layer_noun, self.decoder_layer_spatial = (
            nn.TransformerDecoderLayer(DIM, 8, 40, dropout=0.0) for _ in range(2)
        )
        self.transformer_decoder_noun = nn.TransformerDecoder(self.decoder_layer_noun, layers)
        self.transformer_decoder_spatial = nn.TransformerDecoder(self.decoder_layer_spatial, layers)
        trained = [self.transformer_decoder_noun, *([self.transformer_decoder_spatial] if separate else [])]
        with torch.no_grad():
            for weight in nn.ModuleList(trained).parameters():
                weight.add_(torch.randn_like(weight), alpha=0.1)
        self.separate = separate

    def find(self, memory: Tensor, *, of_words: bool, separate_queries: bool) -> Tensor:
        queries = self.noun_queries if of_words and separate_queries else self.spatial_queries
        decoder = self.transformer_decoder_spatial if self.separate and not of_words else self.transformer_decoder_noun
        seen: Tensor = decoder(queries.expand(len(memory), -1, -1).transpose(0, 1), memory.transpose(0, 1))
        return functional.normalize(seen.transpose(0, 1), dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("shared_queries", [None, False, True])
def test_two_decoders_are_converted(shared_queries: bool | None, separate: bool, layers: int, tmp_path: Path) -> None:
    published = Published(separate=separate, layers=layers).eval()
    blocks = TemporalTransformer(DIM, layers=1).blocks.state_dict()
    temporal = {f"transformerClip.resblocks.{name}": weight for name, weight in blocks.items()}
    aligner = convert_concepts({**published.state_dict(), **temporal}, shared_queries=shared_queries)
    separate_queries = separate if shared_queries is None else not shared_queries
    assert (aligner.word_finder is not None) == (separate or separate_queries)
    memory, mask = torch.randn(4, 5, DIM), torch.ones(4, 5, dtype=torch.bool)
    for of_words in (False, True):
        expected = published.find(memory, of_words=of_words, separate_queries=separate_queries)
        check_close(aligner.find_concepts(memory, mask, of_words=of_words), expected, 2e-6)
    texts, videos = aligner.prepare_texts(TextBatch(memory[:, 0], memory, mask)), aligner.prepare(VideoBatch(memory))
    assert aligner.temporal is not None
    seen = aligner.temporal(memory, mask)
    check_close(texts.concepts, published.find(memory, of_words=True, separate_queries=separate_queries), 2e-6)
    check_close(videos.concepts, published.find(seen, of_words=False, separate_queries=separate_queries), 2e-6)
    save_aligner(aligner, tmp_path / "aligner.safetensors")
    again = load_aligner(tmp_path / "aligner.safetensors")
    assert isinstance(again, ConceptAligner)
    check_same(
        again.score(again.prepare_texts(TextBatch(memory[:, 0], memory, mask)), videos), aligner.score(texts, videos)
    )


def test_invalid_checkpoints_are_rejected_with_the_names_of_weights() -> None:
    weights = {**CASES[0].weights, "clip.logit_scale": torch.tensor(4.6)}
    convert_concepts(weights)
    name = "transformer_decoder_noun.layers.1.norm3.bias"
    with pytest.raises(AlignerError, match=f"1 weight missing: {name}"):
        convert_concepts({key: value for key, value in weights.items() if key != name})
    separate = {name.replace("noun", "spatial"): weight for name, weight in weights.items()} | weights
    missing = "transformer_decoder_spatial.layers.1.norm3.bias"
    with pytest.raises(AlignerError, match=f"1 weight missing: {missing}"):
        convert_concepts({key: value for key, value in separate.items() if key != missing})
    with pytest.raises(AlignerError, match=r"1 weight missing: noun_queries"):
        convert_concepts({key: value for key, value in separate.items() if key != "noun_queries"})
    with pytest.raises(AlignerError, match=r"2 weights unknown: another.weight, transformerClip.more"):
        convert_concepts({**weights, "transformerClip.more": torch.ones(1), "another.weight": torch.ones(1)})
    with pytest.raises(AlignerError, match=f"1 weight of another shape: {name}"):
        convert_concepts({**weights, name: torch.ones(3)})
    with pytest.raises(AlignerError, match=r"3 weights missing: frame_position_embeddings.weight, spatial_q"):
        convert_concepts({"clip.logit_scale": torch.tensor(4.6)})
