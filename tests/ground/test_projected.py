"""Projected tokens: projection in parts, packing, chunked unpacking, effect on scores; their files and damage."""

import math
import weakref
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.ground.samples import DIM, NUM_LAYERS, make_head, make_inputs, pack, prepare
from vidret.errors import StoreError
from vidret.ground import r2
from vidret.ground.head import GroundingHead
from vidret.ground.pieces import load_projected, save_projected
from vidret.ground.projected import PartialTokens, ProjectedVideos, begin_projection, find_bias, finish_projection
from vidret.ground.r2 import R2Block
from vidret.ground.windows import Window

DTYPES = (torch.float16, torch.int8)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "relative_error"), [(torch.float16, 2**-11), (torch.int8, 0.5 / 127)])
def test_packing_errors_are_within_half_a_step(dtype: torch.dtype, relative_error: float) -> None:
    projected = prepare(make_head().float(), make_inputs())
    packed = pack(projected, dtype)
    for layer in range(NUM_LAYERS):
        exact, actual = projected.tokens(layer), packed.tokens(layer)
        assert actual.dtype == torch.float32
        assert packed.layers[layer].dtype == dtype
        bound = exact.abs().amax(dim=-1, keepdim=True) * relative_error * 1.001
        assert ((actual - exact).abs() <= bound).all()
        assert not torch.equal(actual, exact)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES])
def test_slices_equal_the_whole(dtype: torch.dtype) -> None:
    head, inputs = make_head().float(), make_inputs(num_tokens=(5, 3, 4))
    sizes = [torch.rand(3, 9, tokens) * 4 for tokens in (5, 3, 4)]
    projected = pack(head.prepare(inputs.layers, mask=inputs.mask, sizes=sizes), dtype)
    assert projected.num_frames == 9
    assert projected.lengths.tolist() == [9, 5, 2]
    assert projected._replace(mask=None).lengths.tolist() == [9, 9, 9]
    for layer in range(NUM_LAYERS):
        layer_tokens, bias = projected.tokens(layer), projected.bias(layer)
        assert bias is not None
        assert torch.equal(projected.class_tokens(layer), layer_tokens[:, :, 0])
        for frames in (slice(0, 4), slice(4, 9)):
            sliced = projected.bias(layer, frames)
            assert sliced is not None
            assert torch.equal(projected.tokens(layer, frames), layer_tokens[:, frames])
            assert torch.equal(sliced, bias[:, frames])


def test_only_a_chunk_is_unpacked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    head, inputs = make_head().float(), make_inputs((40,), (3,))
    num_frames_read: list[int] = []
    read = ProjectedVideos.tokens

    def count(self: ProjectedVideos, layer: int, frames: slice = slice(None)) -> Tensor:
        tokens = read(self, layer, frames)
        num_frames_read.append(tokens.shape[1])
        return tokens

    monkeypatch.setattr(r2, "TOKENS_AT_ONCE", 35)
    monkeypatch.setattr(ProjectedVideos, "tokens", count)
    with torch.no_grad():
        head(pack(head.prepare(inputs.layers), torch.int8), inputs.query)
    assert max(num_frames_read) == 7
    assert sum(num_frames_read) == NUM_LAYERS * 40


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 1e-4), (torch.int8, 2e-3)])
def test_packing_hardly_changes_scores(dtype: torch.dtype, bound: float) -> None:
    """At published sizes, probabilities change by less than the bound and distances by less than ten times that."""
    torch.manual_seed(0)
    head = GroundingHead().eval()
    for parameter in (head.block.scales, head.block.gates):
        parameter.normal_()
    layers, query = [torch.randn(1, 16, 50, 768) for _ in range(4)], torch.randn(1, 4, 9, 512)
    exact, actual = (head(pack(head.prepare(layers), kind), query) for kind in (torch.float32, dtype))
    assert 0 < float((actual.logits.sigmoid() - exact.logits.sigmoid()).abs().max()) < bound
    assert float((actual.distances / exact.distances - 1).abs().max()) < 10 * bound
    for one, other in zip(head.decode(actual, fps=0.5), head.decode(exact, fps=0.5), strict=True):
        assert abs(one.saliency - other.saliency).max() < bound


def test_biases_are_log_sizes_and_mask_padding() -> None:
    layer = torch.zeros(1, 2, 3, DIM)
    assert find_bias(layer, None, None, None) is None
    sizes = torch.tensor([[[1.0, 2, 0], [1, 4, 1]]])
    real = torch.tensor([[[True, True, False], [False, False, False]]])
    bias = find_bias(layer, torch.tensor([[True, False]]), real, sizes)
    assert bias is not None
    assert bias[0, 0].tolist() == [0, pytest.approx(math.log(2)), -math.inf]
    assert (bias[0, 1] == 0).all()


def make_block(*, tef: bool, seed: int = 0) -> R2Block:
    torch.manual_seed(seed)
    block = R2Block(24, 16, 8, num_layers=1, heads=2, tef=tef, dropout=0.3).double().eval()
    for weight in block.parameters():
        nn.init.normal_(weight)
    return block


def project_at_once(block: R2Block, tokens: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
    if ends is not None:
        tokens = torch.cat([tokens, ends[:, None].expand(-1, tokens.shape[1], -1)], dim=-1)
    projected: torch.Tensor = block.video_map(tokens)
    return projected


@torch.no_grad()
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([1e-3, 1.0, 30.0]), st.sampled_from([0.0, 5.0]))
def test_two_parts_equal_the_whole(seed: int, tef: bool, spread: float, offset: float) -> None:
    block = make_block(tef=tef, seed=seed)
    tokens = torch.randn(5, 3, 24, dtype=torch.float64) * spread + offset
    ends = torch.rand(5, 2, dtype=torch.float64).sort(dim=-1).values if tef else None
    partial = begin_projection(block.video_map, tokens)
    torch.testing.assert_close(
        finish_projection(block.video_map, partial, ends), project_at_once(block, tokens, ends), rtol=1e-7, atol=1e-7
    )


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_hidden_values_fit_float16_at_any_scale_of_the_tokens(scale: float) -> None:
    block = make_block(tef=True)
    tokens = torch.randn(4, 3, 24, dtype=torch.float64) * scale
    partial = begin_projection(block.video_map, tokens)
    stored = PartialTokens(partial.hidden.half(), partial.mean.float(), partial.variance.float())
    ends = torch.tensor([[0.25, 0.5]]).double().expand(4, 2)
    actual = finish_projection(block.video_map, stored._replace(mean=stored.mean.double()), ends)
    expected = project_at_once(block, tokens, ends)
    assert (actual - expected).abs().max() < 0.02 * expected.abs().max()


CPU = torch.device("cpu")
Windows = list[tuple[Window, ProjectedVideos]]


def make_projected(
    num_frames: int = 4, dtype: torch.dtype = torch.int8, *, biases: bool = True, seed: int = 0
) -> ProjectedVideos:
    """Return two random layers, of which the second has fewer tokens and some padding."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, num_frames, 3), (1, num_frames, 2))
    rows = tuple((100 * torch.randn(*shape, 8, generator=generator)).to(dtype) for shape in shapes)
    scales = tuple(torch.rand(shape, generator=generator) if dtype == torch.int8 else None for shape in shapes)
    bias = torch.rand(shapes[1], generator=generator)
    bias[..., 1] = -torch.inf
    return ProjectedVideos(rows, scales, (None, bias if biases else None))


def make_windows(num_windows: int = 3) -> Windows:
    return [(Window(2 * index, 2 * index + 4), make_projected(seed=index)) for index in range(num_windows)]


def is_same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)


def are_same(actual: Windows, expected: Windows) -> bool:
    if [window for window, _ in actual] != [window for window, _ in expected]:
        return False
    pairs = ((one, other) for (_, one), (_, other) in zip(actual, expected, strict=True))
    flat = (zip(chain(*one[:3]), chain(*other[:3]), strict=True) for one, other in pairs)
    return all(is_same(*tensors) for tensors in chain.from_iterable(flat))


def read(path: Path) -> Windows:
    return list(load_projected(path, device=CPU))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("biases", [False, True])
def test_files_round_trip(tmp_path: Path, dtype: torch.dtype, *, biases: bool) -> None:
    windows = [
        (Window(0, 4), make_projected(4, dtype, biases=biases)),
        (Window(3, 8), make_projected(5, dtype, seed=1)),
    ]
    save_projected(tmp_path / "new" / "folder" / "a.zip", windows)
    actual = read(tmp_path / "new" / "folder" / "a.zip")
    assert are_same(actual, windows)
    assert all(projected.mask is None for _, projected in actual)


def test_a_view_is_written_without_its_base(tmp_path: Path) -> None:
    whole = make_projected(40)
    view = ProjectedVideos(tuple(layer[:, 10:14] for layer in whole.layers), (None, None), (None, None))
    save_projected(tmp_path / "a.zip", [(Window(10, 14), view)])
    assert are_same(read(tmp_path / "a.zip"), [(Window(10, 14), view)])
    assert (tmp_path / "a.zip").stat().st_size < 1000


def test_one_window_is_in_memory_at_a_time(tmp_path: Path) -> None:
    written: list[weakref.ref[Tensor]] = []

    def draw() -> Iterator[tuple[Window, ProjectedVideos]]:
        for index in range(6):
            assert sum(ref() is not None for ref in written) <= 1, "earlier windows are freed"
            projected = make_projected(seed=index)
            written.append(weakref.ref(projected.layers[0]))
            yield Window(index, index + 4), projected
            del projected

    save_projected(tmp_path / "a.zip", draw())
    read_back: list[weakref.ref[Tensor]] = []
    for _, projected in load_projected(tmp_path / "a.zip", device=CPU):
        read_back.append(weakref.ref(projected.layers[0]))
        assert sum(ref() is not None for ref in read_back) <= 2
    assert len(written) == len(read_back) == 6


def test_writes_are_atomic(tmp_path: Path) -> None:
    path, windows = tmp_path / "a.zip", make_windows()

    def break_off() -> Iterator[tuple[Window, ProjectedVideos]]:
        yield windows[0]
        raise RuntimeError("the decoder crashed")

    with pytest.raises(RuntimeError, match="the decoder crashed"):
        save_projected(path, break_off())
    assert list(tmp_path.iterdir()) == []
    save_projected(path, windows)
    with pytest.raises(RuntimeError, match="the decoder crashed"):
        save_projected(path, break_off())
    assert are_same(read(path), windows), "the old file is kept"
    assert list(tmp_path.iterdir()) == [path]
    save_projected(path, windows[:1])
    assert are_same(read(path), windows[:1])


def test_deleting_a_file_while_reading(tmp_path: Path) -> None:
    path, windows = tmp_path / "a.zip", make_windows()
    save_projected(path, windows)
    reading = load_projected(path, device=CPU)
    first = next(reading)
    path.unlink()
    assert are_same([first, *reading], windows)


def test_truncated_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save_projected(path, make_windows())
    data = path.read_bytes()
    for length in [*range(0, len(data), 31), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(StoreError, match=r"a\.zip: (cannot be read|must have the comment)"):
            read(path)


def test_changed_bytes_are_detected(tmp_path: Path) -> None:
    """Flip a bit in every byte: reading fails or is unaffected (a date in the zip, say)."""
    path, windows = tmp_path / "a.zip", make_windows(1)
    save_projected(path, windows)
    data = path.read_bytes()
    messages = []
    for offset in range(len(data)):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :])
        try:
            assert are_same(read(path), windows)
        except StoreError as error:
            messages.append(str(error))
    assert len(messages) > 0.8 * len(data)
    assert all(sentence.startswith(f"{path}: ") for sentence in messages)


def test_other_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with pytest.raises(StoreError, match=r"a\.zip: cannot be read .*No such file"):
        read(path)
    for content in (b"", b"something else", bytes(5000)):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"a\.zip: cannot be read"):
            read(path)
    for comment in (b"", b"vidret mapped tokens, format 2"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = comment
            archive.writestr("0-4", b"")
        with pytest.raises(StoreError, match=r"a\.zip: must have the comment .vidret mapped tokens, format 1., got b"):
            read(path)
