"""Decoded frames of PyAV as RGB images.

A frame is converted by the matrix that it states. High-definition video that states none is of BT.709, as players
assume, and other video of BT.601. Video of a high dynamic range is tone-mapped. Of an interlaced frame that combs, the
first field is shown; one whose fields match, as of progressive video in interlaced files, keeps all rows.
"""

import tempfile
from functools import cache, lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av.filter
import numpy as np
from av.video.reformatter import Colorspace
from jaxtyping import UInt8

from vidret.types import Picture
from vidret.video.container import ONE_THREAD
from vidret.video.hdr import HDR_TRANSFERS, render_sdr

_UNSPECIFIED, _FULL_RANGE = 2, 2  # of matrices in ITU-T H.273, and of ranges in FFmpeg
_HD_HEIGHT, _HD_WIDTH = 720, 1280  # pixels
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m"}  # of H.273, as FFmpeg names them
_TABLE_SIZE = 65  # colours on each axis
# In a block that combs, rows differ from both neighbours more than these from each other, by so many grey levels on
# average. Of real films, it is so in none of 90 frames, and in four of five that were woven of two successive frames.
_MIN_EXCESS, _BLOCK = 0.5, 16


class Renderer:
    """Converts the frames of one stream."""

    def __init__(self, transfer: int) -> None:
        """Convert frames with a transfer function of ITU-T H.273."""
        self._transfer = transfer
        # One for frames, and one for their fields.
        self._open_tone_mapper = lru_cache(maxsize=2)(partial(_open_tone_mapper, transfer))

    def render(self, frame: Any, width: int, height: int) -> Picture:
        """Return an RGB image of some size.

        Raises:
            av.FFmpegError, OSError, ValueError: The frame is too damaged.
        """
        assumes_bt709 = _assumes_bt709(frame)
        image = self._convert(frame, width, height, assumes_bt709=assumes_bt709)
        if frame.interlaced_frame and is_combed(image[:, :, 1]):
            return self._convert(_read_first_field(frame), width, height, assumes_bt709=assumes_bt709)
        return image

    def _convert(self, frame: Any, width: int, height: int, *, assumes_bt709: bool) -> Picture:
        if self._transfer in HDR_TRANSFERS:
            return self._map_tones(frame, width, height)
        source: dict[str, Any] = {"src_colorspace": Colorspace.ITU709} if assumes_bt709 else {}
        image: Picture = frame.to_ndarray(format="rgb24", width=width, height=height, **source, **ONE_THREAD)
        return image

    def _map_tones(self, frame: Any, width: int, height: int) -> Picture:
        matrix = _MATRICES.get(frame.colorspace, "bt2020")
        levels = "full" if frame.color_range == _FULL_RANGE else "limited"
        graph = self._open_tone_mapper(frame.width, frame.height, frame.format.name, matrix, levels, width, height)
        image: Picture = _pass(graph, frame).to_ndarray()
        return image


def describe_rendering(frame: Any, transfer: int) -> str:
    """Return what only ``Renderer`` does with frames like this one; empty if nothing."""
    if transfer in HDR_TRANSFERS:
        return "tone-maps a high dynamic range"
    if frame.interlaced_frame:
        return "deinterlaces"
    return "takes untagged high definition for BT.709" if _assumes_bt709(frame) else ""


def is_combed(plane: UInt8[np.ndarray, "height width"]) -> bool:
    """Return whether the rows of an image alternate between two moments somewhere, as the fields of a frame do."""
    height, width = max(plane.shape[0] - 2, 0) // _BLOCK, plane.shape[1] // _BLOCK
    rows = plane[: height * _BLOCK + 2, : width * _BLOCK].astype(np.int16)
    steps = np.abs(rows[1:] - rows[:-1])
    excess = np.minimum(steps[1:], steps[:-1]) - np.abs(rows[2:] - rows[:-2])
    totals = excess.reshape(height, _BLOCK, width, _BLOCK).sum(axis=(1, 3))
    return bool((totals > _MIN_EXCESS * _BLOCK**2).any())


def _assumes_bt709(frame: Any) -> bool:
    """Return whether a frame that states no matrix is of high definition."""
    is_large = frame.height >= _HD_HEIGHT or frame.width >= _HD_WIDTH
    has_matrix = not frame.format.is_rgb and len(frame.format.components) >= 3
    return bool(is_large and has_matrix and frame.colorspace == _UNSPECIFIED)


def _read_first_field(frame: Any) -> Any:
    """Return the field of an interlaced frame that is shown first, as a frame of half the height."""
    return _pass(_link(frame.width, frame.height, frame.format.name, [("separatefields", {})]), frame)


def _open_tone_mapper(
    transfer: int, width: int, height: int, pixel_format: str, matrix: str, levels: str, new_width: int, new_height: int
) -> Any:
    """Return a graph that converts frames of a high dynamic range to RGB of another size by a table."""
    size = {"width": str(new_width), "height": str(new_height), "flags": "bilinear"}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.cube"
        table.write_text(_write_table(transfer), encoding="ascii")
        filters = [
            ("scale", size | {"in_color_matrix": matrix, "in_range": levels, "threads": "1"}),
            ("format", {"pix_fmts": "gbrp16le"}),
            ("lut3d", {"file": str(table), "interp": "tetrahedral", "threads": "1"}),
            ("scale", {"threads": "1"}),
            ("format", {"pix_fmts": "rgb24"}),
        ]
        return _link(width, height, pixel_format, filters)


@cache
def _write_table(transfer: int) -> str:
    """Return the text of a table of colours in the format of .cube files, in which red varies fastest."""
    axis = np.linspace(0, 1, _TABLE_SIZE)
    colours = render_sdr(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")[::-1], axis=-1), transfer)
    lines = [f"{red:.5f} {green:.5f} {blue:.5f}" for red, green, blue in colours.reshape(-1, 3).tolist()]
    return "\n".join([f"LUT_3D_SIZE {_TABLE_SIZE}", *lines, ""])


def _link(width: int, height: int, pixel_format: str, filters: list[tuple[str, dict[str, str]]]) -> Any:
    """Return a graph through which frames pass the filters in this order."""
    graph: Any = av.filter.Graph()
    if hasattr(graph, "threads"):
        graph.threads = 1  # filters of older versions have an option only
    source = {"video_size": f"{width}x{height}", "pix_fmt": pixel_format, "time_base": "1/1000", "pixel_aspect": "1/1"}
    links = [("buffer", source), *filters, ("buffersink", {})]
    for one, following in pairwise([graph.add(name, **options) for name, options in links]):
        one.link_to(following)
    graph.configure()
    return graph


def _pass(graph: Any, frame: Any) -> Any:
    """Return the first frame that a graph makes of a frame."""
    graph.push(frame)
    return graph.pull()
