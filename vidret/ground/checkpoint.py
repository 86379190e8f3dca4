"""Grounding head files: conversion of R2-Tuning checkpoints, and safetensors with a card in the metadata."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vidret.errors import VidretError
from vidret.ground.head import GroundingHead
from vidret.ground.windows import LENGTH
from vidret.model_files import (
    CARD,
    HEAD,
    TRAINED_ON,
    load_exactly,
    read_metadata,
    read_part,
    read_part_cards,
    save_tensors,
)
from vidret.text import parse_json

# Prefixes of published names, and vidret's.
NAMES = {
    "adapter.gate": "block.gates",
    "adapter.scale": "block.scales",
    "adapter.v_map.": "block.token_key.",
    "adapter.q_map.": "block.word_key.",
    "adapter.video_map.": "block.video_map.",
    "adapter.query_map.": "block.query_map.",
    "adapter.tem.cross_att.q.": "block.refine.cross.query.",
    "adapter.tem.cross_att.k.": "block.refine.cross.key.",
    "adapter.tem.cross_att.v.": "block.refine.cross.value.",
    "adapter.tem.cross_att.m.": "block.refine.cross.out.",
    "adapter.tem.self_att.q.": "block.refine.own.query.",
    "adapter.tem.self_att.k.": "block.refine.own.key.",
    "adapter.tem.self_att.v.": "block.refine.own.value.",
    "adapter.tem.self_att.m.": "block.refine.own.out.",
    "adapter.tem.ffn.mapping.": "block.refine.mlp.",
    "adapter.tem.cross_att_norm.": "block.refine.cross_norm.",
    "adapter.tem.self_att_norm.": "block.refine.own_norm.",
    "adapter.tem.ffn_norm.": "block.refine.mlp_norm.",
    "pooling.att.": "pooling.score.",
    "class_head.module.1.": "classes.hidden.",
    "class_head.module.3.": "classes.out.",
    "coord_head.module.1.": "boundaries.hidden.",
    "coord_head.module.3.": "boundaries.out.",
    "coef": "reach",
}
# Softmax is invariant to a bias of the keys; the constant of the loss is not a weight of the head.
IGNORED = re.compile(r"adapter\.v_map\.bias$|loss\.")
# A published halving is a sequence of five modules, of which these have weights.
MODULES_PER_HALVING, WEIGHTED = 5, {1: "conv", 3: "norm"}


def from_published(name: str) -> str:
    """Return vidret's name of a published weight; unknown names are returned unchanged."""
    if match := re.fullmatch(r"pyramid\.blocks\.(\d+)\.(\d+)\.(\w+)", name):
        halving, module = divmod(int(match[2]), MODULES_PER_HALVING)
        if module not in WEIGHTED:
            return name
        return f"pyramid.levels.{match[1]}.{halving}.{WEIGHTED[module]}.{match[3]}"
    prefix = next((prefix for prefix in NAMES if name.startswith(prefix)), "")
    return NAMES.get(prefix, "") + name[len(prefix) :]


def to_published(name: str) -> str:
    """Return the published name of a weight of ``GroundingHead``."""
    if match := re.fullmatch(r"pyramid\.levels\.(\d+)\.(\d+)\.(\w+)\.(\w+)", name):
        module = next(module for module, kind in WEIGHTED.items() if kind == match[3])
        return f"pyramid.blocks.{match[1]}.{MODULES_PER_HALVING * int(match[2]) + module}.{match[4]}"
    prefix = next((prefix for prefix, head_prefix in NAMES.items() if name.startswith(head_prefix)), "")
    return prefix + name[len(NAMES.get(prefix, "")) :]


FORMAT = 1
METHOD = "r2tuning"
LAYERS, VECTORS = "layers", "vectors"
CLIP_UNIT = 8  # CLIP's widths are multiples of it; a width 2 above one includes the temporal endpoint feature

Weights = Mapping[str, Tensor]


class HeadRecipe(TypedDict, total=False):
    """Settings of a head that depend on its benchmark and not on its weights; see ``HeadCard``."""

    fps: float | None
    suppression: str | None
    threshold: float | None
    unit: float | None
    window: int


@dataclass(frozen=True, slots=True)
class HeadCard:
    """The description of a head: its architecture, and how its spans are post-processed.

    Attributes:
        backbone: The encoder whose layers it reads.
        fps: Frames per second in training; None if that differed between videos.
        strides, num_layers, heads, limit, tef, cosine: Its architecture; see ``GroundingHead``.
        suppression: Soft-NMS by ``hard``, ``linear`` or ``gaussian`` decay; None for none.
        threshold: Overlap at which ``hard`` suppresses, or the sigma of ``gaussian``; None for the default.
        unit: Grid that boundaries are rounded to, in seconds; None for no rounding.
        window: Number of frames of the windows that longer videos are cut into; those of ``VECTORS`` have ``LENGTH``.
        reads: ``layers`` of the backbone, or the ``vectors`` that an index stores; see ``search/heads/vectors.py``.
        similarity_weight: Weight of the encoder's similarity in the scores of spans; 0 for none, as published. See
            ``weigh_by_similarity``.
    """

    backbone: str
    fps: float | None
    strides: tuple[int, ...]
    num_layers: int
    heads: int = 8
    limit: int = 50
    tef: bool = True
    cosine: bool = True
    suppression: str | None = None
    threshold: float | None = None
    unit: float | None = None
    window: int = LENGTH
    reads: str = LAYERS
    similarity_weight: float = 0.0

    @classmethod
    def describe(
        cls,
        head: GroundingHead,
        *,
        backbone: str,
        reads: str = LAYERS,
        similarity_weight: float = 0.0,
        **recipe: Unpack[HeadRecipe],
    ) -> "HeadCard":
        """Return the card of a head, with the settings that are not part of the head."""
        architecture = _describe_architecture(head)
        return cls(backbone=backbone, reads=reads, similarity_weight=similarity_weight, **architecture, **recipe)

    def to_json(self) -> str:
        """Return the card as JSON."""
        return json.dumps({"format": FORMAT, "method": METHOD, **asdict(self)})

    def check(self) -> None:
        """Raise ValueError if a setting is invalid."""
        for name in ("fps", "threshold"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("unit", "similarity_weight"):  # 0 turns them off
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if type(self.window) is not int or self.window < 1:
            raise ValueError(f"window must be an integer of at least 1, got {self.window}")
        for name, allowed in (("suppression", (None, "hard", "linear", "gaussian")), ("reads", (LAYERS, VECTORS))):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value}")

    @classmethod
    def from_json(cls, text: str) -> "HeadCard":
        """Parse a card from JSON.

        Raises:
            ValueError: The text is not a card, or has another format version or method.
        """
        fields: Any = parse_json(text)
        if not isinstance(fields, dict):
            raise ValueError(f"not a head's card: {text[:80]}")
        fields.pop(TRAINED_ON, None)
        for name, wanted in (("format", FORMAT), ("method", METHOD)):
            if (value := fields.pop(name, None)) != wanted:
                raise ValueError(f"the card's {name} must be {wanted}, got {value}")
        try:
            card = cls(**{**fields, "strides": tuple(fields["strides"])})
            card.check()
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a head's card: {error}") from error
        return card


def convert_head(weights: Weights, *, heads: int = 8) -> GroundingHead:
    """Convert a published R2-Tuning state dict to a head whose sizes follow from the weights' shapes.

    Saliency is multiplied by a cosine if the head has boundaries, as published.

    Raises:
        VidretError: Weights are missing, unknown, of another shape (listed by their published names) or vidret's own.
    """
    if any(name.startswith(tuple(NAMES.values())) for name in weights):
        use = "use it as --head, or add it to a model by --from vidret --with"
        raise VidretError(f"must be a published checkpoint, got a head of vidret: {use}")
    renamed = {from_published(name): weight.float() for name, weight in weights.items() if not IGNORED.match(name)}
    if not any(name.startswith("boundaries.") for name in renamed):
        renamed.pop("reach", None)  # unused, and so untrained, without boundaries
    return _build(renamed, to_published, heads=heads)


def save_head(head: GroundingHead, card: HeadCard, path: Path) -> None:
    """Write a head's weights and card to a safetensors file that ``load_head`` loads.

    Raises:
        ValueError: The card does not describe the head.
    """
    expected = replace(card, **_describe_architecture(head))
    if card != expected:
        raise ValueError(f"card must describe the head, {expected}, got {card}")
    weights = {name: weight.detach().contiguous() for name, weight in head.state_dict().items()}
    save_tensors(weights, path, {CARD: card.to_json()})


def read_head_card(path: Path) -> HeadCard:
    """Return the card of a head's file without loading its weights.

    The backbone of a head in a joint file is that file.

    Raises:
        VidretError: The file cannot be read, or has no valid card.
    """
    try:
        if (joined := read_part_cards(path).get(HEAD)) is not None:
            return replace(HeadCard.from_json(json.dumps(joined)), backbone=str(path.absolute()))
        if (text := read_metadata(path).get(CARD)) is None:
            raise ValueError("must have the card of a grounding head, got a file without one")
        return HeadCard.from_json(text)
    except (SafetensorError, OSError, ValueError) as error:
        raise VidretError(f"{path}: {error}") from error


def load_head(path: Path) -> tuple[GroundingHead, HeadCard]:
    """Load a head, in evaluation mode, and its card.

    Raises:
        VidretError: The file cannot be read, or its weights do not match its card.
    """
    card = read_head_card(path)
    try:
        part = read_part(path, HEAD)
        weights = load_file(path) if part is None else dict(part.weights)
        tef = card.tef if card.reads == VECTORS else None  # does not follow from the width of vectors
        head = _build(weights, str, heads=card.heads, limit=card.limit, tef=tef)
        head.cosine = card.cosine
    except (VidretError, SafetensorError, OSError) as error:
        raise VidretError(f"{path}: {error}") from error
    actual = head.pyramid.strides, head.block.num_layers, head.block.tef
    if actual != (card.strides, card.num_layers, card.tef):
        raise VidretError(
            f"{path}: the card must describe the weights, got {card} for strides, num_layers and tef {actual}"
        )
    return head, card


def _build(
    weights: dict[str, Tensor],
    display_name: Callable[[str], str],
    *,
    heads: int,
    limit: int = 50,
    tef: bool | None = None,
) -> GroundingHead:
    """Build the head that has the shapes of ``weights``; errors show ``display_name`` of a weight's name.

    Whether it has the temporal endpoint feature follows from its width, unless it is given.
    """
    width = _find_length(weights, "block.video_map.0", 770)
    if tef is None and width % CLIP_UNIT not in (0, 2):
        name = display_name("block.video_map.0.weight")
        raise VidretError(f"{name} must have a multiple of {CLIP_UNIT} elements, or 2 more, got {width}")
    boundaries = any(name.startswith("boundaries.") for name in weights)
    tef = width % CLIP_UNIT == 2 if tef is None else tef
    try:
        head = GroundingHead(
            width - 2 * tef,
            _find_length(weights, "block.query_map.0", 512),
            _find_length(weights, "block.video_map.4", 256),
            num_layers=weights["block.scales"].numel() if "block.scales" in weights else 4,
            heads=heads,
            strides=_find_strides(weights),
            tef=tef,
            boundaries=boundaries,
            cosine=boundaries,
            limit=limit,
            motion=weights["block.motion.weight"].shape[-1] if "block.motion.weight" in weights else 0,
        )
    except (TypeError, ValueError) as error:  # a card may hold anything
        raise VidretError(str(error)) from error
    load_exactly(head, weights, show=display_name)
    return head.eval()


def _describe_architecture(head: GroundingHead) -> dict[str, Any]:
    """Return the fields of a card that follow from the head itself."""
    return {
        "strides": head.pyramid.strides,
        "num_layers": head.block.num_layers,
        "heads": head.block.refine.own.heads,
        "limit": head.limit,
        "tef": head.block.tef,
        "cosine": head.cosine,
    }


def _find_length(weights: Weights, name: str, default: int) -> int:
    """Return a width from a norm's weight or bias; if both are missing, loading the weights reports it."""
    tensors = [weights[f"{name}.{part}"] for part in ("weight", "bias") if f"{name}.{part}" in weights]
    return tensors[0].numel() if tensors else default


def _find_strides(weights: Weights) -> tuple[int, ...]:
    """Return the strides of the pyramid: each level has at least as many halvings as its index.

    Levels are counted by ``reach`` and by their weights, so that loading reports missing ones.
    """
    split = [name.split(".") for name in weights if name.startswith("pyramid.levels.")]
    pairs = [(int(level), int(halving)) for _, _, level, halving, *_ in split]
    num_levels = max([len(weights["reach"]) if "reach" in weights else 1, *(level + 1 for level, _ in pairs)])
    halvings = [
        max([level, *(1 + halving for pair_level, halving in pairs if pair_level == level)])
        for level in range(num_levels)
    ]
    return tuple(2**times for times in halvings)
