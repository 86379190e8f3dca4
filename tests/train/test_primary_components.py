"""Long-CLIP's training: losses, gradients and stretched positions of the published code, and a naive version."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.goldens import Case, check_close, find_cases
from tests.train.small import make_module, make_trainer, open_data
from vidret.encode.clip.text import KEPT_POSITIONS, TextShape, stretch_positions
from vidret.encode.clip.weights import convert_state_dict
from vidret.encode.families.clip import load_towers
from vidret.errors import VidretError
from vidret.train.losses import add_terms, contrast_rows, find_same_videos
from vidret.train.methods.longclip import LongClip, keep_components, primary_losses

cases = pytest.mark.parametrize("case", find_cases("longclip"), ids=lambda case: case.folder.name)


@cases
def test_losses_and_gradients_equal_the_published_code(case: Case) -> None:
    config = case.config
    model = convert_state_dict(case.weights, "longclip", heads=(config["visual_heads"], config["text_heads"]))
    texts, firsts = (model.text(case.inputs[kind].long())[0] for kind in ("text_long", "text_short"))
    images = model.vision(case.inputs["image"].float(), num_frames=1).frames[:, 0]
    with torch.no_grad():
        units = functional.normalize(images, dim=-1)
    for num_components in (32, 5):
        check_close(keep_components(units, num_components), case.outputs[f"image_pca{num_components}"])
    losses = primary_losses(images, texts, firsts, model.logit_scale, num_components=config["pca"])
    check_close(losses["whole"].reshape(1), case.outputs["loss_long"])
    check_close(losses["first"].reshape(1), case.outputs["loss_short"])
    torch.autograd.backward(add_terms(losses))
    assert model.text.positions.grad is not None
    kept = config["kept"]
    published = [case.outputs[f"grad_positional_embedding{table}"] for table in ("", "_res")]
    check_close(model.text.positions.grad, torch.cat([published[0][:kept], published[1][kept:]]))
    assert not published[0][kept:].any()
    assert not published[1][:kept].any()


@cases
def test_stretched_positions_equal_the_published_code(case: Case) -> None:
    stretched = stretch_positions(case.inputs["positions_77"].float())
    check_close(stretched, case.outputs["stretched"], atol=2e-3)  # the published code computes in half precision
    assert torch.equal(stretched[:KEPT_POSITIONS], case.inputs["positions_77"][:KEPT_POSITIONS].float())


def test_positions_lie_on_lines() -> None:
    table = torch.arange(KEPT_POSITIONS + 3.0)[:, None] ** 2
    found = stretch_positions(table, factor=2)[:, 0].tolist()
    assert found == [*(row**2 for row in range(KEPT_POSITIONS)), 400, 420.5, 441, 462.5, 484, 505.5]
    assert torch.equal(stretch_positions(table, factor=1), table)
    with pytest.raises(ValueError, match="table must have at least 22 positions and factor be positive, got 21, 4"):
        stretch_positions(table[:-2])


def smooth(logits: Tensor, same: Tensor, share: float) -> float:
    """Compute the loss of each row against a target that is spread by loops."""
    total = 0.0
    for row in range(len(logits)):
        used = [column for column in range(len(logits)) if column == row or not same[row, column]]
        chances = logits[row, used].log_softmax(0)
        targets = [share / len(used) + (1 - share) * (column == row) for column in used]
        total -= sum(target * float(chance) for target, chance in zip(targets, chances, strict=True))
    return total / len(logits)


@pytest.mark.parametrize("videos", [[0, 1, 2, 3], [0, 1, 0, 2], [5, 5, 5, 5]])
def test_label_smoothing_matches_loops(videos: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    same = find_same_videos(torch.tensor(videos))
    for share in (0.0, 0.1, 0.5):
        assert contrast_rows(logits, same, share).item() == pytest.approx(smooth(logits, same, share))
    plain = functional.cross_entropy(logits, torch.arange(4), label_smoothing=0.1)
    torch.testing.assert_close(contrast_rows(logits, smoothing=0.1), plain)


def test_few_vectors_are_their_own_components() -> None:
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert keep_components(vectors, 5) is vectors
    assert torch.linalg.matrix_rank(keep_components(vectors, 2) - vectors.mean(dim=0)) == 2


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_gradients_of_components_match_finite_differences(shape: tuple[int, int]) -> None:
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: keep_components(rows, 2).sin(), (vectors,))


@pytest.mark.parametrize("num_equal", [10, 64])
def test_equal_videos_have_finite_gradients(num_equal: int) -> None:
    videos, texts, firsts = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0)).unbind()
    videos[:num_equal] = videos[0]
    videos.requires_grad_()
    torch.autograd.backward(add_terms(primary_losses(videos, texts, firsts, torch.tensor(4.6))))
    assert videos.grad is not None
    assert videos.grad.isfinite().all()
    assert videos.grad.any()


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_training_leaves_the_first_positions_as_they_are(world: Path, tmp_path: Path) -> None:
    text = TextShape(context=32, vocabulary=49408, width=32, layers=1, heads=2, dim=32)
    out = tmp_path / "long.safetensors"
    module = make_module("longclip", text=text, options={"stretch": 4}, train_all=False, lr=1e-3)
    before = module.model.encoder.text.positions.detach().clone()
    assert before.shape == (4 * 32 - 3 * 20, 32)
    make_trainer(tmp_path, max_steps=3).fit(module, datamodule=open_data(world, num_words=60))
    positions = module.model.encoder.text.positions
    assert torch.equal(positions[:20], before[:20])
    module.model.zero_grad()
    module.model.encode_texts(torch.arange(1, 31)[None]).sentences.sum().backward()  # type: ignore[no-untyped-call]
    assert positions.grad is not None
    assert not positions.grad[:20].any()
    assert positions.grad[20:30].any()
    module.export(out)
    assert load_towers(str(out)).card.text.context == 68, "the exported model reads long texts"


@pytest.mark.filterwarnings("ignore")
def test_data_without_first_sentences_are_refused(world: Path, tmp_path: Path) -> None:
    data = open_data(world, first_sentences=False)
    with pytest.raises(VidretError, match="first_sentences of the data must be true for longclip, got false"):
        make_trainer(tmp_path, max_steps=1).fit(make_module("longclip"), datamodule=data)


def test_only_towers_of_clip_are_stretched_by_default() -> None:
    assert make_module("longclip").model.encoder.text.shape.context == 32
    text = TextShape(context=77, vocabulary=64, width=32, layers=1, heads=2, dim=32)
    assert make_module("longclip", text=text).model.encoder.text.shape.context == 248
    assert LongClip().stretch is None
