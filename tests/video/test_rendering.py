"""Proof for vidret/video/rendering.py: films of known colours, and of bars that move from field to field."""

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.filter
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.video.conftest import NAMES, Film
from vidret.types import Picture, Resize
from vidret.video.container import ONE_THREAD
from vidret.video.decoders.base import list_doubts
from vidret.video.decoders.registry import EXACT_DECODERS, choose_decoder, find_decoder
from vidret.video.probe import probe
from vidret.video.reader import open_reader, read_frames
from vidret.video.rendering import HLG, PQ, decode_hlg, decode_pq, encode_pq, is_combed, render_sdr, tone_map

Plane = NDArray[np.float64]
Colour = tuple[float, float, float]

PATCH = 64  # pixels
WEIGHTS = {1: (0.2126, 0.7152, 0.0722), 6: (0.299, 0.587, 0.114), 9: (0.2627, 0.6780, 0.0593)}  # of H.273's matrices
BT709, BT601, BT2020 = WEIGHTS
UNSPECIFIED, LIMITED, FULL = 2, 1, 2
NEARLY_LOSSLESS = {"crf": "2", "preset": "ultrafast"}
HEVC = {"x265-params": "log-level=none:crf=2"}
# Signals: reference white of PQ and of HLG, a grey card, a dark grey, skin, green; the last is outside of BT.709.
HDR_COLOURS: list[Colour] = [(0.58069,) * 3, (0.75,) * 3, (0.38,) * 3, (0.1,) * 3, (0.5, 0.4, 0.35), (0.3, 0.6, 0.3)]
BARS: list[Colour] = [(0.75, 0.75, 0.75), (0.75, 0.75, 0), (0, 0.75, 0.75), (0, 0.75, 0), (0.75, 0, 0.75), (0.75, 0, 0)]
BAR_WIDTH, BAR_SPEED = 24, 8  # pixels, and pixels a field


def encode_yuv(rgb: Plane, matrix: int, bits: int, colour_range: int) -> list[Plane]:
    """Return the planes of H.273, equations 20 to 30 and 38 to 40: a twin of what the decoder inverts."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    weight_red, weight_green, weight_blue = WEIGHTS[matrix]
    luma = weight_red * red + weight_green * green + weight_blue * blue
    chroma = ((blue - luma) / (2 * (1 - weight_blue)), (red - luma) / (2 * (1 - weight_red)))
    unit, top = 1 << (bits - 8), (1 << bits) - 1
    offset, luma_span, chroma_span = (0, top, top) if colour_range == FULL else (16 * unit, 219 * unit, 224 * unit)
    return [np.round(offset + luma_span * luma), *(np.round(128 * unit + chroma_span * plane) for plane in chroma)]


def make_frame(planes: Sequence[Plane], pixel_format: str) -> Any:
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixel_format)
    dtype = np.uint16 if pixel_format.endswith("10le") else np.uint8
    for target, plane in zip(frame.planes, planes, strict=True):
        step = plane.shape[1] // target.width
        rows = np.zeros((target.height, target.line_size // np.dtype(dtype).itemsize), dtype)
        rows[:, : target.width] = plane[::step, ::step]
        target.update(rows.tobytes())
    return frame


def write_frames(
    path: Path, frames: Sequence[Any], *, codec: str = "libx264", options: dict[str, str] | None = None, **tags: int
) -> Path:
    with av.open(str(path), "w") as container:
        stream = cast(Any, container.add_stream(codec, rate=25, options=options or NEARLY_LOSSLESS))
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def draw_patches(colours: Sequence[Colour], height: int = PATCH) -> Plane:
    return np.repeat(np.tile(np.array(colours)[None], (height, 1, 1)), PATCH, axis=1)


def read_patches(image: Picture) -> NDArray[np.uint8]:
    return image[image.shape[0] // 2, PATCH // 2 :: PATCH]


def write_hdr(path: Path, transfer: int, colour_range: int = LIMITED, **how: Any) -> Path:
    planes = encode_yuv(draw_patches(HDR_COLOURS), BT2020, 10, colour_range)
    frames = [make_frame(planes, "yuv420p10le") for _ in range(3)]
    return write_frames(path, frames, color_trc=transfer, colorspace=BT2020, color_range=colour_range, **how)


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("how", [{}, {"codec": "libx265", "options": HEVC}, {"colour_range": FULL}])
def test_high_dynamic_range_has_the_standards_colours(tmp_path: Path, transfer: int, how: dict[str, Any]) -> None:
    path = write_hdr(tmp_path / "hdr.mp4", transfer, **how)
    expected = render_sdr(np.array(HDR_COLOURS), transfer) * 255
    image = read_frames(str(path), indices=[1]).pixels[0]
    np.testing.assert_allclose(read_patches(image), expected, atol=2)
    info = probe(path)
    with open_reader(info, for_streaming=True) as reader:
        streamed = next(reader.stream(1)).read_image()
    assert streamed is not None
    assert (streamed == image).all()
    assert info.hdr
    assert list_doubts(info)["only PyAV tone-maps a high dynamic range"]
    assert choose_decoder(info)[0] == "pyav"
    for name in EXACT_DECODERS:
        assert find_decoder(name).find_doubt(replace(info, pixel_format="yuv420p"))


@pytest.mark.parametrize("name", NAMES)
def test_other_frames_stay_as_they_are(films: dict[str, Film], name: str) -> None:
    info = probe(films[name].path)
    assert info.rendering == ""
    if info.rotation or info.edit_list or info.num_frames == 1:
        return
    read = read_frames(str(films[name].path), indices=range(3), decoder="pyav").pixels
    with av.open(str(films[name].path)) as container:
        for image, frame in zip(read, container.decode(video=0), strict=False):
            size: dict[str, Any] = {"width": info.width, "height": info.height}
            assert (image == frame.to_ndarray(format="rgb24", **size, **ONE_THREAD)).all()


@pytest.mark.parametrize(
    ("height", "repeat", "tag", "matrix"),
    [
        (720, 1, UNSPECIFIED, BT709),
        (48, 4, UNSPECIFIED, BT709),  # 1536 pixels wide
        (480, 1, UNSPECIFIED, BT601),
        (720, 1, BT601, BT601),
        (480, 1, BT709, BT709),
    ],
)
def test_bars_have_colours_by_size_or_tag(tmp_path: Path, height: int, repeat: int, tag: int, matrix: int) -> None:
    bars = BARS * repeat
    frame = make_frame(encode_yuv(draw_patches(bars, height), matrix, 8, LIMITED), "yuv420p")
    path = write_frames(tmp_path / "bars.mp4", [frame], colorspace=tag)
    np.testing.assert_allclose(
        read_patches(read_frames(str(path), indices=[0]).pixels[0]), np.array(bars) * 255, atol=4
    )
    is_assumed = (tag, matrix) == (UNSPECIFIED, BT709)
    assert choose_decoder(probe(path))[0] == ("pyav" if is_assumed else "decord")


def test_grey_and_rgb_of_high_definition_have_no_matrix(tmp_path: Path) -> None:
    grey = make_frame([np.full((720, 64), 100.0)], "gray")
    colour = av.VideoFrame.from_ndarray(np.full((720, 64, 3), (200, 100, 50), np.uint8), format="rgb24")
    for name, frame in (("grey.mkv", grey), ("rgb.mkv", colour.reformat(format="bgr0"))):
        assert probe(write_frames(tmp_path / name, [frame], codec="ffv1", options={"level": "3"})).rendering == ""


def draw_bar(time: int, height: int = 96, width: int = 192) -> Plane:
    """Return a bright red bar before dark blue at a time in fields, as RGB signals."""
    image = np.tile(np.array((0.1, 0.1, 0.3)), (height, width, 1))
    image[:, 16 + time * BAR_SPEED :][:, :BAR_WIDTH] = (0.9, 0.3, 0.2)
    return image


def write_interlaced(path: Path, num_frames: int, order: str, speed: int = 1) -> Path:
    """Write frames of two fields, of which each shows its own time."""
    frames = []
    for index in range(num_frames):
        first, second = (draw_bar(speed * (2 * index + field)) for field in range(2))
        top, bottom = (first, second) if order == "tff" else (second, first)
        woven = np.where((np.arange(len(top)) % 2 == 0)[:, None, None], top, bottom)
        # Each field has its own chroma: rows 0, 2 of the top field share one, and rows 1, 3 of the bottom field.
        luma, *chroma = encode_yuv(woven, BT601, 8, LIMITED)
        frame = make_frame([luma, *(weave_chroma(plane) for plane in chroma)], "yuv420p")
        frames.append(set_order(frame, order))
    return write_frames(path, frames, options=NEARLY_LOSSLESS | {"x264-params": f"{order}=1"})


def set_order(frame: Any, order: str) -> Any:
    """Return an interlaced frame that says which field is first."""
    graph = av.filter.Graph()
    size = {"width": frame.width, "height": frame.height, "format": frame.format, "time_base": Fraction(1, 25)}
    graph.link_nodes(graph.add_buffer(**size), graph.add("setfield", order), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def weave_chroma(plane: Plane) -> Plane:
    """Return a plane of which every second row of the chroma is of the bottom field, after taking every second row."""
    rows = np.arange(len(plane))
    woven: Plane = plane[rows // 4 * 4 + rows % 4 // 2]
    return woven


@pytest.mark.parametrize("order", ["tff", "bff"])
def test_the_first_field_of_an_interlaced_frame_is_shown(tmp_path: Path, order: str) -> None:
    path = write_interlaced(tmp_path / "interlaced.mp4", 4, order)
    assert choose_decoder(probe(path)) == ("pyav", "only PyAV deinterlaces")
    for index, image in enumerate(read_frames(str(path), indices=range(4)).pixels):
        assert not is_combed(image[:, :, 1])
        np.testing.assert_allclose(image, draw_bar(2 * index) * 255, atol=40)  # edges are blurred by their chroma
        away = np.abs(np.arange(image.shape[1])[:, None] - (16 + 2 * index * BAR_SPEED + np.array([0, BAR_WIDTH]))) > 3
        flat = away.all(axis=1)
        np.testing.assert_allclose(image[:, flat], draw_bar(2 * index)[:, flat] * 255, atol=4)
        assert is_combed(decode_frame(path, index).to_ndarray(format="rgb24")[:, :, 1])


def test_an_interlaced_frame_that_stands_still_keeps_all_rows(tmp_path: Path) -> None:
    path = write_interlaced(tmp_path / "still.mp4", 2, "tff", speed=0)
    frame = decode_frame(path, 1)
    assert frame.interlaced_frame
    assert (read_frames(str(path), indices=[1]).pixels[0] == frame.to_ndarray(format="rgb24")).all()


def decode_frame(path: Path, index: int) -> Any:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))[index]


def test_interlaced_high_dynamic_range_is_deinterlaced_and_mapped(tmp_path: Path) -> None:
    top, bottom = (draw_patches([(level,) * 3] * 3) for level in (0.75, 0.2))
    woven = np.where((np.arange(PATCH) % 2 == 0)[:, None, None], top, bottom)
    frame = set_order(make_frame(encode_yuv(woven, BT2020, 10, LIMITED), "yuv420p10le"), "tff")
    options = NEARLY_LOSSLESS | {"x264-params": "tff=1"}
    path = write_frames(tmp_path / "hlg.mp4", [frame], options=options, color_trc=HLG, colorspace=BT2020)
    np.testing.assert_allclose(read_frames(str(path), indices=[0], resize=Resize(32, 32)).pixels[0], 241, atol=2)


def weave(image: Picture, other: Picture) -> Picture:
    """Return an image whose odd rows are those of another."""
    woven = image.copy()
    woven[1::2] = other[1::2]
    return woven


@pytest.mark.parametrize("line", range(8, 26))  # at every height in a block
def test_combs_are_told_from_edges_and_lines(line: int) -> None:
    plane = np.full((64, 64), 100, np.uint8)
    plane[line, 20:50] = 250
    assert not is_combed(plane)
    plane[line + 8 :] = 0  # an edge
    assert not is_combed(plane)
    assert is_combed(weave(plane, np.roll(plane, 4, axis=0)))
    assert is_combed(weave(plane.T, np.roll(plane.T, 2, axis=1)))
    assert not is_combed(np.random.default_rng(line).normal(128, 10, (288, 352)).astype(np.uint8)), "noise"
    for size in ((0, 0), (1, 40), (17, 40), (18, 15)):  # without a block
        assert not is_combed(np.indices(size)[0].astype(np.uint8) % 2 * 255)


# High dynamic range: a twin for one colour, written from the formulas of the standards.


def pq_eotf(signal: float) -> float:
    """Return nits: table 4 of BT.2100."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = signal ** (1 / m2)
    return float(10000 * (max(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1))


def pq_inverse_eotf(nits: float) -> float:
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    y = (nits / 10000) ** m1
    return float(((c1 + c2 * y) / (1 + c3 * y)) ** m2)


def hlg_eotf(signals: Colour) -> list[float]:
    """Return nits of a display of 1000 nit without a black level: table 5 of BT.2100."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * math.log(4 * a)
    scene = [x**2 / 3 if x <= 0.5 else (math.exp((x - c) / a) + b) / 12 for x in signals]
    luminance = 0.2627 * scene[0] + 0.6780 * scene[1] + 0.0593 * scene[2]
    return [1000 * luminance**0.2 * x for x in scene]


def eetf(nits: float) -> float:
    """Return nits on a display of 100 nit of material of 1000 nit: section 5.4.1 of BT.2390, black at 0."""
    e1 = min(pq_inverse_eotf(nits) / pq_inverse_eotf(1000), 1)
    max_lum = pq_inverse_eotf(100) / pq_inverse_eotf(1000)
    ks = 1.5 * max_lum - 0.5
    if e1 < ks:
        return nits
    t = (e1 - ks) / (1 - ks)
    e2 = (2 * t**3 - 3 * t**2 + 1) * ks + (t**3 - 2 * t**2 + t) * (1 - ks) + (-2 * t**3 + 3 * t**2) * max_lum
    return pq_eotf(e2 * pq_inverse_eotf(1000))


def render_naively(signals: Colour, transfer: int) -> list[float]:
    nits = [pq_eotf(x) for x in signals] if transfer == PQ else hlg_eotf(signals)
    largest = max(nits)
    red, green, blue = (0.0 if largest == 0 else x * eetf(largest) / largest / 100 for x in nits)
    linear = (  # section 2 of BT.2087
        1.6605 * red - 0.5876 * green - 0.0728 * blue,
        -0.1246 * red + 1.1329 * green - 0.0083 * blue,
        -0.0182 * red - 0.1006 * green + 1.1187 * blue,
    )
    clipped = [min(max(x, 0), 1) for x in linear]
    return [12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055 for x in clipped]  # IEC 61966-2-1


@pytest.mark.parametrize("transfer", [PQ, HLG])
@given(signals=st.tuples(*[st.floats(0, 1)] * 3))
def test_a_colour_is_that_of_the_standards(transfer: int, signals: Colour) -> None:
    expected = render_naively(signals, transfer)
    np.testing.assert_allclose(render_sdr(np.array(signals), transfer), expected, atol=1e-6)


@given(st.floats(0, 10000))
def test_encoding_light_is_the_inverse_of_decoding(nits: float) -> None:
    np.testing.assert_allclose(decode_pq(encode_pq(np.array([nits]))), nits, rtol=1e-6, atol=1e-6)


@given(st.floats(0, 10000), st.floats(0, 10000))
def test_brighter_light_stays_brighter_up_to_the_peak(one: float, other: float) -> None:
    low, high = tone_map(np.array(sorted((one, other))))
    assert low <= high + 1e-9
    assert high <= 100 + 1e-9
    assert high > 27 or abs(high - max(one, other)) < 1e-9, "dark light is kept"


@pytest.mark.parametrize(("transfer", "signal"), [(PQ, 0.58069), (HLG, 0.75)])
def test_reference_white_of_both_transfers_is_nearly_white(transfer: int, signal: float) -> None:
    decode = decode_pq if transfer == PQ else decode_hlg
    white = np.full(3, signal)
    np.testing.assert_allclose(decode(white), 203, atol=0.2)
    np.testing.assert_allclose(render_sdr(white, transfer) * 255, 241, atol=0.5)
    np.testing.assert_allclose(render_sdr(np.ones(3), transfer) * 255, 255, atol=0.1)
