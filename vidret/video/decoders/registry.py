"""The decoders, and which of them may read a file on a GPU.

PyAV reads every file, and takes the least time on a CPU. The others are for GPUs, and for those who ask for them.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from vidret.video.decoders.base import ExactDecoder
    from vidret.video.probe import VideoInfo

Decoder = Literal["auto", "decord", "pyav", "torchcodec"]
DECODERS: tuple[Decoder, ...] = get_args(Decoder)
# All but PyAV, as ``auto`` prefers them on a GPU: torchcodec resizes there. They decode every frame that is streamed.
EXACT_DECODERS = ("torchcodec", "decord")


def find_decoder(name: str) -> "type[ExactDecoder]":
    """Return a decoder of ``EXACT_DECODERS``; the command line knows their names without loading any."""
    match name:
        case "torchcodec":
            from vidret.video.decoders.torchcodec import TorchcodecDecoder

            return TorchcodecDecoder
        case "decord":
            from vidret.video.decoders.decord import DecordDecoder

            return DecordDecoder
    raise ValueError(f"decoder must be one of {', '.join(EXACT_DECODERS)}, got {name}")


def list_gpu_decoders(decoder: Decoder) -> list[str]:
    """Return the decoders to try on a GPU, the preferred one first."""
    if decoder == "auto":
        return [name for name in EXACT_DECODERS if find_spec(name) is not None]
    return [decoder] if decoder in EXACT_DECODERS else []


def suits_gpu(info: "VideoInfo", name: str, decoder: Decoder) -> bool:
    """Return whether a decoder, if it may be used, may decode a file on a GPU."""
    found = find_decoder(name)
    if decoder not in ("auto", name) or found.find_gpu_doubt(info):
        return False
    return decoder == name or (find_spec(name) is not None and not found.find_doubt(info))
