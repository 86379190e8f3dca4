"""The numerical precision of encoders: the choice of ``auto`` on a device, and vision towers in int8."""

import copy
import logging

import torch
from torch.nn import functional

from vidret.encode.clip.vision import VisionTower
from vidret.errors import EncoderError
from vidret.layers import quantize

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
MIN_COSINE = 0.995
_NUM_SAMPLES, _COARSE = 2, 7  # images, and the side of their coarse grid


def choose_precision(precision: str, device: torch.device) -> str:
    """Return the precision of a CLIP model on a device: the choice for ``auto``, or the given one.

    ``auto`` is bf16 on devices that support it natively (twice as fast as fp32, cosine 0.999 to it). GPUs that only
    emulate bf16, such as NVIDIA's below compute capability 8.0, are slower in it and use fp32. Apple's chips, the first
    of which only emulate bf16, use fp16. CPUs without bf16 but with int8 instructions (VNNI) use int8. On CPUs with
    both, int8 is 1.3 times faster, but further from fp32: trained transformers (MiniLM, Whisper) kept a cosine of 0.998
    in int8 and 0.9999 in bf16. Raise EncoderError if the precision is int8 and the device not a CPU.
    """
    if precision == "int8" and device.type != "cpu":
        raise EncoderError(f"the device of precision int8 must be cpu, got {device}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
        return "bf16" if native else "fp32"
    if device.type == "xpu":
        native = getattr(torch.xpu.get_device_properties(device), "has_bfloat16_conversions", False)
        return "bf16" if native else "fp32"
    if device.type == "mps":
        return "fp16"
    if _cpu_has("_is_avx512_bf16_supported") or _cpu_has("_is_amx_tile_supported"):
        return "bf16"
    return "int8" if _cpu_has("_is_vnni_supported") else "fp32"


def choose_float_precision(name: str, precision: str, device: torch.device) -> str:
    """Return the precision for a model without the layers that int8 supports.

    Raise EncoderError if the precision is int8.
    """
    chosen = choose_precision(precision, device)
    if precision == "int8":
        raise EncoderError(f"a model in int8 must be a ViT with CLIP's standard blocks, got {name}")
    if precision == "auto" and chosen in ("fp16", "int8"):
        logger.info("%s is in fp32: fp16 may overflow, and int8 needs CLIP's standard blocks", name)
        return "fp32"
    return chosen


@torch.inference_mode()
def quantize_tower(tower: VisionTower, min_cosine: float) -> VisionTower:
    """Return a tower with the linear layers of its blocks in int8, if its vectors stay close to those in float32.

    Close means a cosine of at least ``min_cosine`` on sample images; else the tower is returned unchanged. With -1,
    nothing is measured and the tower is changed in place.
    """
    if min_cosine <= -1:
        quantize(tower.blocks)
        return tower
    rough = copy.deepcopy(tower)
    quantize(rough.blocks)
    is_per_frame = tower.merging is None and tower.prompts is None and not tower.token_shift
    num_frames = 1 if is_per_frame else tower.num_frames
    images = sample_images(_NUM_SAMPLES * num_frames, tower.shape.image_size)
    vectors, others = (vision(images, num_frames=num_frames).frames for vision in (tower, rough))
    cosine = float(functional.cosine_similarity(vectors, others, dim=-1).min())
    is_close = cosine >= min_cosine
    logger.info("int8 vectors have a cosine of %.4f to fp32: %s is used", cosine, "int8" if is_close else "fp32")
    return rough if is_close else tower


def sample_images(num: int, side: int) -> torch.Tensor:
    """Return normalised images of smooth random colours, always the same: (num, 3, side, side)."""
    coarse = torch.rand(num, 3, _COARSE, _COARSE, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(4 * coarse - 2, size=(side, side), mode="bilinear")


def _cpu_has(probe: str) -> bool:
    """Return the result of one of PyTorch's probes of the CPU; False if this version lacks it."""
    ask = getattr(torch.cpu, probe, None)
    return ask is not None and bool(ask())
