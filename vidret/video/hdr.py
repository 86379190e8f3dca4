"""Video of a high dynamic range as the image that a standard display would show.

Light is computed as ITU-R BT.2100 defines it, for a display of 1000 nit. It is tone-mapped to 100 nit by the EETF of
BT.2390, applied to the largest of red, green and blue, which keeps hues; converted from the primaries of BT.2020 to
those of BT.709 by BT.2087, and clipped; and encoded as sRGB. Light below 28 nit, such as that of a grey card, stays as
it is, and the reference white of BT.2408, 203 nit, becomes 241 of 255.
"""

import numpy as np
from jaxtyping import Float64

PQ, HLG = 16, 18  # in ITU-T H.273
HDR_TRANSFERS = frozenset((PQ, HLG))

_SOURCE_NITS, _TARGET_NITS = 1000.0, 100.0
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])

_PQ_N, _PQ_M = 2610 / 16384, 2523 / 4096 * 128
_PQ_C1, _PQ_C2, _PQ_C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_PQ_NITS = 10000.0

_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_HLG_GAMMA = 1.2  # of a display of 1000 nit
_HLG_LUMINANCE = np.array([0.2627, 0.6780, 0.0593])


def decode_pq(signal: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return the light in nits of PQ signals from 0 to 1."""
    power = signal ** (1 / _PQ_M)
    nits: Float64[np.ndarray, "*shape"]
    nits = _PQ_NITS * (np.maximum(power - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * power)) ** (1 / _PQ_N)
    return nits


def encode_pq(nits: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return the PQ signals of light in nits."""
    power = (nits / _PQ_NITS) ** _PQ_N
    signal: Float64[np.ndarray, "*shape"] = ((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)) ** _PQ_M
    return signal


def decode_hlg(signal: Float64[np.ndarray, "*shape 3"]) -> Float64[np.ndarray, "*shape 3"]:
    """Return the light in nits of red, green and blue HLG signals from 0 to 1."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12)
    luminance = (scene @ _HLG_LUMINANCE)[..., None]
    nits: Float64[np.ndarray, "*shape 3"] = _SOURCE_NITS * luminance ** (_HLG_GAMMA - 1) * scene
    return nits


def tone_map(nits: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return light in nits as a display of 100 nit shows it: the EETF of BT.2390 without a black level."""
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
