"""Files of a video's projected tokens, and of pieces, one per segment, that are joined once all are encoded.

Files are written and read one window at a time. A file is an uncompressed zip with one safetensors file per window; the
checksums of the zip reveal damage.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from vidret.disk import replacing
from vidret.errors import StoreError
from vidret.ground.head import GroundingHead
from vidret.ground.projected import (
    PartialTokens,
    ProjectedVideos,
    begin_projection,
    find_bias,
    finish_projection,
    pack_tokens,
)
from vidret.ground.windows import Window, choose_frames, cut_windows, place_steps
from vidret.types import LayerTokens, Segment

MARK = b"vidret mapped tokens, format 1"
KINDS = ("layers", "scales", "biases")
# The errors of reading a file that is missing, truncated or corrupt, in its data or its headers.
DAMAGE = (OSError, BadZipFile, SafetensorError, ValueError, EOFError, RuntimeError, zlib.error)


def save_projected(path: Path, windows: Iterable[tuple[Window, ProjectedVideos]]) -> None:
    """Write the windows of one video atomically, keeping one window in memory.

    Raises:
        StoreError: The file cannot be written.
    """
    tensors = ((f"{window.first}-{window.last}", _name_tensors(projected)) for window, projected in windows)
    write_archive(path, MARK, tensors)


def write_archive(path: Path, mark: bytes, entries: Iterable[tuple[str, dict[str, Tensor]]]) -> None:
    """Write entries of named tensors to a file atomically, keeping one entry in memory; ``mark`` names the format."""
    with replacing(path) as draft, ZipFile(draft, "w") as archive:
        archive.comment = mark
        for name, tensors in entries:
            archive.writestr(name, save(tensors))


def load_projected(path: Path, *, device: torch.device) -> Iterator[tuple[Window, ProjectedVideos]]:
    """Yield the windows of a file in order, one at a time; the file may be deleted in between.

    Raises:
        StoreError: The file is missing, damaged, or has another format.
    """
    try:
        for name, tensors in read_archive(path, MARK):
            first, last = name.split("-")
            yield Window(int(first), int(last)), _read_tensors(tensors, device)
    except ValueError as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error


def read_archive(path: Path, mark: bytes) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the entries of a file that ``write_archive`` wrote, in order, one at a time."""
    try:
        with ZipFile(path) as archive:
            if archive.comment != mark:
                raise StoreError(f"{path}: must have the comment {mark.decode()!r}, got {archive.comment[:40]!r}")
            for name in archive.namelist():
                yield name, load(archive.read(name))
    except DAMAGE as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error


def _name_tensors(projected: ProjectedVideos) -> dict[str, Tensor]:
    return {
        f"{kind}.{layer}": tensor.contiguous()
        for kind, tensors in zip(KINDS, projected[:3], strict=True)
        for layer, tensor in enumerate(tensors)
        if tensor is not None
    }


def _read_tensors(tensors: dict[str, Tensor], device: torch.device) -> ProjectedVideos:
    num_layers = sum(name.startswith("layers.") for name in tensors)
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    scales, biases = (tuple(placed.get(f"{kind}.{layer}") for layer in range(num_layers)) for kind in KINDS[1:])
    return ProjectedVideos(tuple(placed[f"layers.{layer}"] for layer in range(num_layers)), scales, biases)


PIECE_MARK = b"vidret piece of projected tokens, format 1"
SUFFIX = ".zip"


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """The frames that a head reads of one segment, by layer, earliest first.

    Attributes:
        segment: The segment.
        layers: Their tokens.
        biases: Biases of the tokens' attention logits; None for a layer without.
    """

    segment: Segment
    layers: tuple[PartialTokens, ...]
    biases: tuple[Tensor | None, ...]

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.layers[0].hidden)


@torch.inference_mode()
def make_piece(
    head: GroundingHead, layers: LayerTokens, segment: Segment, *, first: float, fps: float, device: torch.device
) -> Piece:
    """Begin the projection of the frames of a segment that a head reads, ``fps`` a second from ``first`` on."""
    rows = choose_frames(layers.times, segment.start, segment.end, first=first, fps=fps)
    different, index = np.unique(rows, return_inverse=True)  # a frame that is shown for long is projected once
    chosen, repeat = layers.take(different), torch.from_numpy(index)
    partial, biases = [], []
    for layer_index, tokens in enumerate(chosen.layers):
        begun = begin_projection(head.block.video_map, torch.from_numpy(tokens).to(device))
        partial.append(PartialTokens(*(part.cpu()[repeat] for part in begun)))
        real = None if chosen.masks is None else torch.from_numpy(chosen.masks[layer_index])[None]
        sizes = None if chosen.sizes is None else torch.from_numpy(chosen.sizes[layer_index])[None]
        bias = find_bias(torch.from_numpy(tokens)[None], None, real, sizes)
        biases.append(None if bias is None else bias[0, repeat])
    return Piece(segment, tuple(partial), tuple(biases))


def save_piece(folder: Path, piece: Piece) -> None:
    """Write a piece atomically to the folder of its video.

    Raises:
        StoreError: It cannot be written.
    """
    tensors = {"times": torch.tensor([piece.segment.start, piece.segment.end], dtype=torch.float64)}
    for layer, (tokens, bias) in enumerate(zip(piece.layers, piece.biases, strict=True)):
        fields = {"hidden": tokens.hidden.half(), "mean": tokens.mean.float(), "variance": tokens.variance.float()}
        fields |= {} if bias is None else {"bias": bias}
        tensors |= {f"{name}.{layer}": values.contiguous() for name, values in fields.items()}
    write_archive(find_piece(folder, piece.segment.number), PIECE_MARK, [("piece", tensors)])


def load_piece(folder: Path, segment: Segment) -> Piece:
    """Load the piece of a segment."""
    path = find_piece(folder, segment.number)
    tensors = dict(read_archive(path, PIECE_MARK)).get("piece", {})
    if tensors.get("times", torch.empty(0)).tolist() != [segment.start, segment.end]:
        raise StoreError(f"{path}: must be of the segment from {segment.start} s to {segment.end} s")
    layers = range(sum(name.startswith("hidden.") for name in tensors))
    return Piece(
        segment,
        tuple(PartialTokens(tensors[f"hidden.{n}"], tensors[f"mean.{n}"], tensors[f"variance.{n}"]) for n in layers),
        tuple(tensors.get(f"bias.{n}") for n in layers),
    )


def find_piece(folder: Path, number: int) -> Path:
    """Return the path of the piece of a segment."""
    return folder / f"{number}{SUFFIX}"


@torch.inference_mode()
def join_pieces(
    head: GroundingHead,
    folder: Path,
    segments: Sequence[Segment],
    *,
    first: float,
    fps: float,
    window_length: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[tuple[Window, ProjectedVideos]]:
    """Yield the windows of a video with their projected tokens, finished from its pieces.

    Memory does not grow with the length of the video, but with ``window_length``, in frames. ``segments`` are all of
    it, in time order; the tokens are float16, or int8 with a scale per token. See ``make_piece`` for the others.

    Raises:
        StoreError: A piece is missing or damaged.
    """
    placed = place_steps([(segment.start, segment.end) for segment in segments], first=first, fps=fps)
    pieces: dict[int, Piece] = {}
    for window in cut_windows(len(placed.segments), window_length):
        owners, offsets = (rows[window.first : window.last].tolist() for rows in placed[:2])
        needed = sorted(set(owners))
        pieces = {index: pieces.get(index) or load_piece(folder, segments[index]) for index in needed}
        starts = dict(zip(needed, np.cumsum([0, *(len(pieces[index]) for index in needed)]).tolist(), strict=False))
        rows = torch.tensor([starts[owner] + offset for owner, offset in zip(owners, offsets, strict=True)])
        yield window, _finish(head, [pieces[index] for index in needed], rows, dtype, device)


def _finish(
    head: GroundingHead, pieces: Sequence[Piece], rows: Tensor, dtype: torch.dtype, device: torch.device
) -> ProjectedVideos:
    """Finish the projection of some frames of consecutive pieces; pieces with fewer merged tokens are padded."""
    block, num_frames = head.block, len(rows)
    ends = torch.stack([torch.arange(num_frames), torch.arange(1, num_frames + 1)], dim=-1) / num_frames
    layers, scales, biases = [], [], []
    for layer in range(block.num_layers):
        num_tokens = max(piece.layers[layer].mean.shape[1] for piece in pieces)
        parts = [[_pad(part, num_tokens) for part in piece.layers[layer]] for piece in pieces]
        partial = PartialTokens(*(torch.cat(part)[rows].to(device) for part in zip(*parts, strict=True)))
        tokens = finish_projection(block.video_map, partial, ends.to(device) if block.tef else None)
        packed, scale = pack_tokens(tokens[None], dtype)
        layers.append(packed.cpu())
        scales.append(None if scale is None else scale.cpu())
        layer_biases = (piece.biases[layer] for piece in pieces)  # all pieces of a video have them, or none
        padded = [_pad(bias, num_tokens, value=-torch.inf) for bias in layer_biases if bias is not None]
        biases.append(torch.cat(padded)[rows][None] if padded else None)
    return ProjectedVideos(tuple(layers), tuple(scales), tuple(biases))


def _pad(values: Tensor, num_tokens: int, *, value: float = 0.0) -> Tensor:
    """Append padding to the tokens of each frame."""
    num_missing = num_tokens - values.shape[1]
    widths = (0, 0, 0, num_missing) if values.ndim == 3 else (0, num_missing)
    return functional.pad(values, widths, value=value)
