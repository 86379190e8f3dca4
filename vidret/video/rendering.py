"""Conversion of PyAV's decoded frames to RGB images: colour matrices, deinterlacing, tone mapping.

A frame is converted by its colour matrix. Frames without one are taken as BT.709 in high definition, as players assume,
and as BT.601 otherwise. HDR video is tone-mapped. An interlaced frame that shows combing is reduced to its first field;
one whose fields match, as of progressive video in interlaced files, keeps all rows.

HDR light is computed as ITU-R BT.2100 defines it, for a display of 1000 nit. It is tone-mapped to 100 nit by the EETF
of BT.2390, applied to the largest of red, green and blue, which keeps hues; converted from the primaries of BT.2020 to
those of BT.709 by BT.2087, and clipped; and encoded as sRGB. Light below 28 nit, such as that of a grey card, is
unchanged, and the reference white of BT.2408, 203 nit, becomes 241 of 255.
"""

import tempfile
from functools import cache, lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av.filter
import numpy as np
from av.video.reformatter import Colorspace
from jaxtyping import Float64, UInt8

from vidret.types import Picture
from vidret.video.container import ONE_THREAD

_UNSPECIFIED, _FULL_RANGE = 2, 2  # of matrices in ITU-T H.273, and of ranges in FFmpeg
_HD_HEIGHT, _HD_WIDTH = 720, 1280  # pixels
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m"}  # of H.273, as FFmpeg names them
_TABLE_SIZE = 65  # colours on each axis
# In a combed block, rows differ from both neighbours more than these from each other, by this many grey levels on
# average. In real films, this detects none of 90 frames, and four of five that were woven from two successive frames.
_MIN_EXCESS, _BLOCK = 0.5, 16

PQ, HLG = 16, 18  # in ITU-T H.273
HDR_TRANSFERS = frozenset((PQ, HLG))
UNTAGGED_HD = "takes untagged high definition for BT.709"

_SOURCE_NITS, _TARGET_NITS = 1000.0, 100.0
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])

_PQ_N, _PQ_M = 2610 / 16384, 2523 / 4096 * 128
_PQ_C1, _PQ_C2, _PQ_C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_PQ_NITS = 10000.0

_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_HLG_GAMMA = 1.2  # of a display of 1000 nit
_HLG_LUMINANCE = np.array([0.2627, 0.6780, 0.0593])


class Renderer:
    """Converts the decoded frames of one stream to RGB."""

    def __init__(self, transfer: int) -> None:
        """Set the transfer function of the frames, a number of ITU-T H.273."""
        self._transfer = transfer
        # One for frames, and one for their fields.
        self._open_tone_mapper = lru_cache(maxsize=2)(partial(_open_tone_mapper, transfer))

    def render(self, frame: Any, width: int, height: int) -> Picture:
        """Return an RGB image of this size; raise av.FFmpegError, OSError or ValueError if the frame is too damaged."""
        assumes_bt709 = _assumes_bt709(frame)
        image = self._convert(frame, width, height, assumes_bt709=assumes_bt709)
        if frame.interlaced_frame and is_combed(image[:, :, 1]):
            graph = _link(frame.width, frame.height, frame.format.name, [("separatefields", {})])
            first_field = _pass(graph, frame)  # of half the height
            return self._convert(first_field, width, height, assumes_bt709=assumes_bt709)
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
    """Return the conversion that only ``Renderer`` applies to frames like this one, in words; empty if none."""
    if transfer in HDR_TRANSFERS:
        return "tone-maps a high dynamic range"
    if frame.interlaced_frame:
        return "deinterlaces"
    return UNTAGGED_HD if _assumes_bt709(frame) else ""


def is_combed(plane: UInt8[np.ndarray, "height width"]) -> bool:
    """Return whether some block of an image is combed: its rows alternate between two moments, as two fields do."""
    height, width = max(plane.shape[0] - 2, 0) // _BLOCK, plane.shape[1] // _BLOCK
    rows = plane[: height * _BLOCK + 2, : width * _BLOCK].astype(np.int16)
    steps = np.abs(rows[1:] - rows[:-1])
    excess = np.minimum(steps[1:], steps[:-1]) - np.abs(rows[2:] - rows[:-2])
    totals = excess.reshape(height, _BLOCK, width, _BLOCK).sum(axis=(1, 3))
    return bool((totals > _MIN_EXCESS * _BLOCK**2).any())


def _assumes_bt709(frame: Any) -> bool:
    """Return whether a frame has high definition and states no colour matrix."""
    is_large = frame.height >= _HD_HEIGHT or frame.width >= _HD_WIDTH
    has_matrix = not frame.format.is_rgb and len(frame.format.components) >= 3
    return bool(is_large and has_matrix and frame.colorspace == _UNSPECIFIED)


def _open_tone_mapper(
    transfer: int, width: int, height: int, pixel_format: str, matrix: str, levels: str, new_width: int, new_height: int
) -> Any:
    """Return a filter graph that converts HDR frames to RGB of another size by a lookup table."""
    size = {"width": str(new_width), "height": str(new_height), "flags": "bilinear"}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.cube"
        table.write_text(write_table(transfer), encoding="ascii")
        filters = [
            ("scale", size | {"in_color_matrix": matrix, "in_range": levels, "threads": "1"}),
            ("format", {"pix_fmts": "gbrp16le"}),
            ("lut3d", {"file": str(table), "interp": "tetrahedral", "threads": "1"}),
            ("scale", {"threads": "1"}),
            ("format", {"pix_fmts": "rgb24"}),
        ]
        return _link(width, height, pixel_format, filters)


@cache
def write_table(transfer: int) -> str:
    """Return the lookup table of colours as the text of a .cube file, in which red varies fastest."""
    axis = np.linspace(0, 1, _TABLE_SIZE)
    colours = render_sdr(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")[::-1], axis=-1), transfer)
    lines = [f"{red:.5f} {green:.5f} {blue:.5f}" for red, green, blue in colours.reshape(-1, 3).tolist()]
    return "\n".join([f"LUT_3D_SIZE {_TABLE_SIZE}", *lines, ""])


def _link(width: int, height: int, pixel_format: str, filters: list[tuple[str, dict[str, str]]]) -> Any:
    """Return a filter graph that applies these filters in order."""
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
    """Return the first frame that a filter graph outputs for a frame."""
    graph.push(frame)
    return graph.pull()


# A high dynamic range


def decode_pq(signal: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return the light in nits of PQ signals from 0 to 1."""
    power = signal ** (1 / _PQ_M)
    nits: Float64[np.ndarray, "*shape"]
    nits = _PQ_NITS * (np.maximum(power - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * power)) ** (1 / _PQ_N)
    return nits


def encode_pq(nits: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return the PQ signals of light in nits."""
    power = (nits / _PQ_NITS) ** _PQ_N
    return ((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)) ** _PQ_M


def decode_hlg(signal: Float64[np.ndarray, "*shape 3"]) -> Float64[np.ndarray, "*shape 3"]:
    """Return the light in nits of red, green and blue HLG signals from 0 to 1."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12)
    luminance = (scene @ _HLG_LUMINANCE)[..., None]
    nits: Float64[np.ndarray, "*shape 3"] = _SOURCE_NITS * luminance ** (_HLG_GAMMA - 1) * scene
    return nits


def tone_map(nits: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return light in nits tone-mapped to a display of 100 nit: the EETF of BT.2390 without a black level."""
    source, target = encode_pq(np.array([_SOURCE_NITS, _TARGET_NITS]))
    highest = target / source
    knee = 1.5 * highest - 0.5
    signal = np.minimum(encode_pq(nits) / source, 1)
    t = np.maximum(signal - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * highest
    return decode_pq(np.where(signal < knee, signal, spline) * source)


def render_sdr(signal: Float64[np.ndarray, "*shape 3"], transfer: int) -> Float64[np.ndarray, "*shape 3"]:
    """Return the RGB of a standard display, from 0 to 1, of RGB signals from 0 to 1 with the transfer PQ or HLG."""
    nits = decode_pq(signal) if transfer == PQ else decode_hlg(signal)
    peak = np.maximum(nits.max(axis=-1, keepdims=True), 1e-6)
    light = (nits * (tone_map(peak) / peak)) @ _TO_BT709.T / _TARGET_NITS
    light = np.clip(light, 0, 1)
    rgb: Float64[np.ndarray, "*shape 3"]
    rgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return rgb
