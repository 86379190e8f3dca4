"""Proof for vidret/video/hdr.py: a twin for one colour, written from the formulas of the standards."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.video.rendering import HLG, PQ, decode_hlg, decode_pq, encode_pq, render_sdr, tone_map

Colour = tuple[float, float, float]
SIGNALS = st.tuples(*[st.floats(0, 1)] * 3)


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
@given(signals=SIGNALS)
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
