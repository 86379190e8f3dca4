"""A head's answers for many windows at once: small matrices use a core badly, and so does a video alone."""

from collections.abc import Iterator, Sequence

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vidret.ground.head import GroundingHead, GroundingResult
from vidret.ground.projected import ProjectedVideos

MOST_WINDOWS = 16
LEAST_FULL = 0.8  # real frames of a padded batch


@torch.inference_mode()
def ground_windows(
    head: GroundingHead,
    query: Float[Tensor, "layer word width"],
    windows: Sequence[ProjectedVideos],
    *,
    fps: float,
) -> list[GroundingResult]:
    """Return a query's result in each window, in order; they equal those of each window alone.

    Windows of about the same length are padded and run together.

    Args:
        head: The head.
        query: Outputs of the text tower's last layers.
        windows: The projected tokens of one video each, without padding.
        fps: Frames per second.
    """
    results: dict[int, GroundingResult] = {}
    for batch in cut_batches(windows, pads=not head.as_published):
        stacked = stack_windows([windows[index] for index in batch])
        output = head(stacked, repeat(query, "layer word width -> window layer word width", window=len(batch)))
        results |= zip(batch, head.decode(output, fps=fps), strict=True)
    return [results[index] for index in range(len(windows))]


def cut_batches(windows: Sequence[ProjectedVideos], *, pads: bool) -> Iterator[list[int]]:
    """Yield the indices of windows to run together: all of them, each once.

    Windows of a batch have equal numbers of tokens, and equal numbers of frames unless ``pads`` allows padding.
    """

    def rank(index: int) -> tuple[list[tuple[int, bool]], int]:
        window = windows[index]
        pairs = zip(window.layers, window.biases, strict=True)
        return [(rows.shape[2], bias is None) for rows, bias in pairs], window.num_frames

    batch: list[int] = []
    for index in sorted(range(len(windows)), key=rank):
        if batch:
            (before, shortest), (tokens, longest) = rank(batch[0]), rank(index)
            fits = shortest >= LEAST_FULL * longest if pads else shortest == longest
            if len(batch) == MOST_WINDOWS or before != tokens or not fits:
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch


def stack_windows(windows: Sequence[ProjectedVideos]) -> ProjectedVideos:
    """Return windows of equal numbers of tokens as one batch, padded to the longest if their lengths differ."""
    if len(windows) == 1:
        return windows[0]
    lengths = [window.num_frames for window in windows]
    longest = max(lengths)

    def stack(values: Sequence[Tensor | None]) -> Tensor | None:
        """Concatenate one kind of tensors of one layer, with zeros for padding."""
        given = [value for value in values if value is not None]
        if not given:
            return None
        last = given[0].ndim - 2  # dimensions after the frames
        return torch.cat([functional.pad(value, (0, 0) * last + (0, longest - value.shape[1])) for value in given])

    mask = None
    if min(lengths) < longest:
        device = windows[0].layers[0].device
        mask = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
    layers, scales, biases = (
        tuple(stack(values) for values in zip(*(window[kind] for window in windows), strict=True)) for kind in range(3)
    )
    return ProjectedVideos(tuple(rows for rows in layers if rows is not None), scales, biases, mask)
