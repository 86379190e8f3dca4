"""A published R2-Tuning checkpoint to our head, and our own file: safetensors with a card that says what it is."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidret.errors import VidretError
from vidret.ground.head import GroundingHead
from vidret.layers import find_misfits

FORMAT = 1
METHOD = "r2tuning"
CARD = "vidret"  # the key under which a file's metadata holds the card
CLIP_UNIT = 8  # CLIP's widths are multiples of it; 2 above, tokens are told when their frame starts and ends

# How published names begin, and ours.
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
# A softmax does not see the bias of its keys; the losses' constant is no weight.
LEFT = re.compile(r"adapter\.v_map\.bias$|loss\.")
HALVING, PARTS = 5, {1: "conv", 3: "norm"}  # a published halving is five places long, of which these hold weights

Weights = Mapping[str, Tensor]


class HeadRecipe(TypedDict, total=False):
    """What a benchmark decides of a head's use, and no weight tells; see ``HeadCard``."""

    fps: float | None
    suppression: str | None
    threshold: float | None
    unit: float | None


RECIPES: Mapping[str, HeadRecipe] = {
    "qvhighlights": {"fps": 0.5, "suppression": "hard", "threshold": 0.7, "unit": 2.0},
    "charades": {"fps": 1.0, "suppression": "linear", "unit": 0.1},
    "ego4d": {"fps": 0.5, "suppression": "linear"},
    "tacos": {"fps": 0.5, "suppression": "linear"},
    "youtube": {"fps": None},
    "tvsum": {"fps": 0.5},
}


@dataclass(frozen=True, slots=True)
class HeadCard:
    """What a head is, and how it is meant to be used.

    Attributes:
        backbone: The encoder whose layers it reads.
        fps: Frames a second it was trained on; None where that differs from video to video.
        strides: Its levels.
        num_layers: How many of the encoder's last layers it walks.
        heads: Of its attention over time.
        limit: How many spans it gives at most.
        tef: Whether tokens are told when their frame is.
        cosine: Whether the saliency is multiplied by the cosine of frame and query.
        suppression: ``hard``, ``linear`` or ``gaussian``; None for none.
        threshold: The overlap from which on ``hard`` suppresses, or the sigma of ``gaussian``.
        unit: What boundaries are rounded to, in seconds; None for no rounding.
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

    @classmethod
    def describe(
        cls,
        head: GroundingHead,
        *,
        backbone: str,
        fps: float | None,
        suppression: str | None = None,
        threshold: float | None = None,
        unit: float | None = None,
    ) -> "HeadCard":
        """Fill in a card from a head, and from what cannot be seen in it."""
        return cls(
            backbone=backbone,
            fps=fps,
            strides=head.pyramid.strides,
            num_layers=head.block.num_layers,
            heads=head.block.refine.own.heads,
            limit=head.limit,
            tef=head.block.tef,
            cosine=head.cosine,
            suppression=suppression,
            threshold=threshold,
            unit=unit,
        )

    def to_json(self) -> str:
        """Write the card as JSON."""
        return json.dumps({"format": FORMAT, "method": METHOD, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "HeadCard":
        """Read a card.

        Raises:
            ValueError: It is of another format or method, or not a card.
        """
        facts: Any = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError(f"not a head's card: {text[:80]}")
        for name, wanted in (("format", FORMAT), ("method", METHOD)):
            if (found := facts.pop(name, None)) != wanted:
                raise ValueError(f"the card's {name} must be {wanted}, got {found}")
        try:
            return cls(**{**facts, "strides": tuple(facts["strides"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a head's card: {error}") from error


def convert_head(
    weights: Weights, *, heads: int = 8, limit: int = 50, cosine: bool | None = None, as_published: bool = False
) -> GroundingHead:
    """Turn a published R2-Tuning state dict into a head; the weights' shapes say how large it is.

    Args:
        weights: With the names of the method's own code.
        heads: Of the attention over time, which no shape tells.
        limit: How many spans are given at most.
        cosine: Whether the saliency is multiplied by a cosine; where spans are found, unless given, as published.
        as_published: Whether the head works in padded batches as the published code does.

    Raises:
        VidretError: Lists the weights that are missing, unknown or of another shape, by their published names.
    """
    own = {_to_own(name): weight.float() for name, weight in weights.items() if not LEFT.match(name)}
    if not any(name.startswith("boundaries.") for name in own):
        own.pop("reach", None)  # stays at its start where there is nothing to be scaled
    return _build(own, _to_published, heads=heads, limit=limit, cosine=cosine, as_published=as_published)


def save_head(head: GroundingHead, card: HeadCard, path: Path) -> None:
    """Write a head's weights with its card; ``load_head`` takes the file.

    Raises:
        ValueError: The card is another head's.
    """
    fitting = HeadCard.describe(
        head,
        backbone=card.backbone,
        fps=card.fps,
        suppression=card.suppression,
        threshold=card.threshold,
        unit=card.unit,
    )
    if card != fitting:
        raise ValueError(f"card must be the head's own, {fitting}, got {card}")
    weights = {name: weight.detach().contiguous() for name, weight in head.state_dict().items()}
    save_file(weights, path, metadata={CARD: card.to_json()})


def read_head_card(path: Path) -> HeadCard:
    """Read the card of a head's file, and nothing else of it.

    Raises:
        VidretError: The file cannot be read, or holds no head.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CARD)
        if text is None:
            raise ValueError("must be a file with the card of a grounding head, got one without a card")
        return HeadCard.from_json(text)
    except (SafetensorError, OSError, ValueError) as error:
        raise VidretError(f"{path}: {error}") from error


def load_head(path: Path) -> tuple[GroundingHead, HeadCard]:
    """Read a head, ready to be used, and its card.

    Raises:
        VidretError: The file cannot be read, or does not hold exactly the head of its card.
    """
    card = read_head_card(path)
    try:
        head = _build(load_file(path), str, heads=card.heads, limit=card.limit, cosine=card.cosine)
    except (VidretError, SafetensorError, OSError) as error:
        raise VidretError(f"{path}: {error}") from error
    seen = head.pyramid.strides, head.block.num_layers, head.block.tef
    if seen != (card.strides, card.num_layers, card.tef):
        raise VidretError(f"{path}: the card must be that of the weights, got {card} with strides, layers, tef {seen}")
    return head, card


def _build(
    weights: dict[str, Tensor],
    name_of: Callable[[str], str],
    *,
    heads: int,
    limit: int,
    cosine: bool | None,
    as_published: bool = False,
) -> GroundingHead:
    """Build a head of the shapes that weights with our names have; errors call them by ``name_of``."""
    width = _find_length(weights, "block.video_map.0", 770)
    if width % CLIP_UNIT not in (0, 2):
        name = name_of("block.video_map.0.weight")
        raise VidretError(f"{name} must be of CLIP's width, a multiple of {CLIP_UNIT}, or 2 more, got {width}")
    boundaries = any(name.startswith("boundaries.") for name in weights)
    tef = width % CLIP_UNIT == 2
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
            cosine=boundaries if cosine is None else cosine,
            limit=limit,
            as_published=as_published,
        )
    except ValueError as error:
        raise VidretError(str(error)) from error
    state, lists = head.state_dict(), []
    for what, names in find_misfits(state, weights).items():
        called = [name_of(name) for name in names]
        if what == "of another shape":
            called = [f"{name_of(name)} {tuple(weights[name].shape)} for {tuple(state[name].shape)}" for name in names]
        lists.append(f"{len(called)} weights {what}: {', '.join(sorted(called))}")
    if lists:
        raise VidretError("; ".join(lists))
    head.load_state_dict(weights)
    return head.eval()


def _find_length(weights: Weights, name: str, default: int) -> int:
    """Read a length from a norm's weight, or its bias; where both are missing, an error will say so."""
    found = [weights[f"{name}.{part}"] for part in ("weight", "bias") if f"{name}.{part}" in weights]
    return found[0].numel() if found else default


def _find_strides(weights: Weights) -> tuple[int, ...]:
    """Count levels by their factors or their weights; a level halves as often as it has convolutions, or should."""
    places = [name.split(".") for name in weights if name.startswith("pyramid.levels.")]
    pairs = [(int(level), int(halving)) for _, _, level, halving, *_ in places]
    num_levels = max([len(weights["reach"]) if "reach" in weights else 1, *(level + 1 for level, _ in pairs)])
    halvings = [max([level, *(1 + other for own, other in pairs if own == level)]) for level in range(num_levels)]
    return tuple(2**times for times in halvings)


def _to_own(name: str) -> str:
    """Give our name of a published weight; an unknown one stays as it is."""
    if match := re.fullmatch(r"pyramid\.blocks\.(\d+)\.(\d+)\.(\w+)", name):
        halving, place = divmod(int(match[2]), HALVING)
        return f"pyramid.levels.{match[1]}.{halving}.{PARTS[place]}.{match[3]}" if place in PARTS else name
    start = next((start for start in NAMES if name.startswith(start)), "")
    return NAMES.get(start, "") + name[len(start) :]


def _to_published(name: str) -> str:
    """Give the published name of a weight of ours."""
    if match := re.fullmatch(r"pyramid\.levels\.(\d+)\.(\d+)\.(\w+)\.(\w+)", name):
        place = next(place for place, part in PARTS.items() if part == match[3])
        return f"pyramid.blocks.{match[1]}.{HALVING * int(match[2]) + place}.{match[4]}"
    start = next((start for start, own in NAMES.items() if name.startswith(own)), "")
    return start + name[len(NAMES.get(start, "")) :]
