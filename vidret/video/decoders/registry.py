"""The registry of decoders, and the choice of a decoder for a file and a device.

PyAV reads every file. The others are chosen for files on which they were measured to be exact, or on request.
"""

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from vidret.video.decoders.base import ExactDecoder
    from vidret.video.probe import VideoInfo

Decoder = Literal["auto", "decord", "pyav", "torchcodec"]
DECODERS: tuple[Decoder, ...] = get_args(Decoder)
# All but PyAV, in the order that ``auto`` prefers on a GPU: torchcodec also resizes there. They stream every frame.
EXACT_DECODERS = ("torchcodec", "decord")


def find_decoder(name: str) -> "type[ExactDecoder]":
    """Import and return a decoder of ``EXACT_DECODERS``."""
    match name:
        case "torchcodec":
            from vidret.video.decoders.torchcodec import TorchcodecDecoder

            return TorchcodecDecoder
        case "decord":
            from vidret.video.decoders.decord import DecordDecoder

            return DecordDecoder
    raise ValueError(f"decoder must be one of {', '.join(EXACT_DECODERS)}, got {name}")


def choose_decoder(info: "VideoInfo", decoder: Decoder = "auto") -> tuple[str, str]:
    """Return the decoder for a file on the CPU and the reason: Decord if there is no doubt, otherwise PyAV.

    ``auto`` is never torchcodec: it takes about the CPU time of the others, but loads torch in each process.
    """
    if decoder != "auto":
        return decoder, "requested"
    doubt = find_decoder("decord").find_doubt(info)
    kind = info.container.split(",")[0]
    return ("pyav", doubt) if doubt else ("decord", f"Decord is exact on {info.codec} in {kind}")


def list_gpu_decoders(decoder: Decoder) -> list[str]:
    """Return the decoders to try on a GPU, the preferred one first."""
    if decoder == "auto":
        return [name for name in EXACT_DECODERS if find_decoder(name).is_at_hand()]
    return [decoder] if decoder in EXACT_DECODERS else []


def suits_gpu(info: "VideoInfo", name: str, decoder: Decoder) -> bool:
    """Return whether a decoder may decode a file on a GPU, given the requested ``decoder``."""
    exact_decoder = find_decoder(name)
    if decoder not in ("auto", name) or exact_decoder.find_gpu_doubt(info):
        return False
    return decoder == name or (exact_decoder.is_at_hand() and not exact_decoder.find_doubt(info, on_gpu=True))
