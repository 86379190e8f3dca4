"""Files of UniversalVTG: conversion of a published checkpoint, and safetensors with a card."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidret.errors import VidretError
from vidret.ground.universalvtg.network import UniversalVtg
from vidret.model_files import CARD, load_exactly

FORMAT = 1
METHOD = "universalvtg"
BACKBONE = "PE-Core-L-14-336/meta"
Weights = Mapping[str, Tensor]


def build_universal(weights: Weights) -> UniversalVtg:
    """Return the head that has published weights, in evaluation mode.

    Raises:
        VidretError: Weights are missing, unknown or of another shape.
    """
    own = {name: weight.float() for name, weight in weights.items()}
    video, text = own.get("vid_proj.conv.weight"), own.get("text_net.embd_fc.conv.weight")
    if video is None or text is None or video.ndim != 3 or text.ndim != 3:
        raise VidretError("must have the weights vid_proj.conv.weight and text_net.embd_fc.conv.weight of UniversalVTG")
    head = UniversalVtg(video.shape[1], text.shape[1], video.shape[0])
    load_exactly(head, own)
    return head.eval()


def save_universal(head: UniversalVtg, path: Path, *, backbone: str = BACKBONE) -> None:
    """Write a head, and the name of the encoder whose frames and words it reads, to a file for ``load_universal``."""
    fields = {"format": FORMAT, "method": METHOD, "backbone": backbone}
    save_file(
        {name: weight.contiguous() for name, weight in head.state_dict().items()}, path, {CARD: json.dumps(fields)}
    )


def is_universal(path: Path) -> bool:
    """Return whether a file is a head of UniversalVTG; the errors of other files are those of their own readers."""
    try:
        with safe_open(path, "pt") as file:
            return bool(json.loads((file.metadata() or {}).get(CARD, "{}")).get("method") == METHOD)
    except (SafetensorError, OSError, ValueError, AttributeError):
        return False


def load_universal(path: Path) -> tuple[UniversalVtg, str]:
    """Load a head that ``save_universal`` wrote, and the name of its encoder.

    Raises:
        VidretError: The file cannot be read, or its card has another format.
    """
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {})[CARD])
        if card["format"] != FORMAT:
            raise ValueError(f"the card's format must be {FORMAT}, got {card['format']}")
        return build_universal(load_file(path)), str(card["backbone"])
    except (SafetensorError, OSError, ValueError, KeyError, VidretError) as error:
        raise VidretError(f"{path}: {error}") from error
