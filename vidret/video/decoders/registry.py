"""The decoders, and which of them reads a file.

PyAV reads every file. The others are chosen where they were measured to be exact, or on request.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from vidret.video.decoders.base import ExactDecoder
from vidret.video.decoders.decord import DecordDecoder
from vidret.video.decoders.torchcodec import TorchcodecDecoder
from vidret.video.probe import VideoInfo

Decoder = Literal["auto", "decord", "pyav", "torchcodec"]
DECODERS: tuple[Decoder, ...] = get_args(Decoder)
# As ``auto`` prefers them on a GPU: torchcodec resizes there. These decode every frame of a video that is streamed.
EXACT_DECODERS: Mapping[str, type[ExactDecoder]] = {"torchcodec": TorchcodecDecoder, "decord": DecordDecoder}


def choose_decoder(info: VideoInfo, decoder: Decoder = "auto") -> tuple[str, str]:
    """Return the decoder for a file on the CPU and the reason: Decord where there is no doubt, otherwise PyAV.

    ``auto`` is never torchcodec: each process that uses it loads torch, for about the CPU time of the others.
    """
    if decoder != "auto":
        return decoder, "requested"
    doubt = DecordDecoder.find_doubt(info)
    kind = info.container.split(",")[0]
    return ("pyav", doubt) if doubt else ("decord", f"Decord is exact on {info.codec} in {kind}")


def list_gpu_decoders(decoder: Decoder) -> list[str]:
    """Return the decoders to try on a GPU, the preferred one first."""
    return [
        name for name, found in EXACT_DECODERS.items() if decoder == name or (decoder == "auto" and found.is_at_hand())
    ]


def suits_gpu(info: VideoInfo, name: str, decoder: Decoder) -> bool:
    """Return whether a decoder, if it may be used, may decode a file on a GPU."""
    found = EXACT_DECODERS[name]
    if decoder not in ("auto", name) or found.find_gpu_doubt(info):
        return False
    return decoder == name or (found.is_at_hand() and not found.find_doubt(info, on_gpu=True))
