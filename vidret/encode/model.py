"""A CLIP model as one thing: its card says what it is, its file is safetensors with the card inside."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from vidret.encode.prompt_switch import PromptShape
from vidret.encode.tempme import MergeSchedule
from vidret.encode.text import TextShape, TextTower
from vidret.encode.vision import VisionShape, VisionTower
from vidret.errors import EncoderError
from vidret.layers import find_misfits, fold
from vidret.types import Resize, Sampling

FORMAT = 1
CARD = "vidret"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Card:
    """What a model is: method and backbone by name, and everything that its forward depends on but the weights.

    ``mean`` and ``std`` standardise pixels on the scale 0..1; ``sampling`` is what frames it was trained to see.
    """

    method: str
    backbone: str
    vision: VisionShape
    text: TextShape
    merging: MergeSchedule | None = None
    prompts: PromptShape | None = None
    token_shift: bool = False
    lora_rank: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    interpolation: str = "bicubic"

    @property
    def resize(self) -> Resize:
        """Say what pictures the model looks at."""
        size = self.vision.image_size
        return Resize(size, size, "bilinear" if self.interpolation == "bilinear" else "bicubic")

    def to_json(self) -> str:
        """Write the card as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """Read a card.

        Raises:
            ValueError: It is of a newer format, or not a card.
        """
        facts: Any = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError(f"not a model card: {text[:80]}")
        if facts.pop("format", None) != FORMAT:
            raise ValueError(f"the card's format must be {FORMAT}, got another: a newer vidret wrote it")
        try:
            merging, prompts = facts.pop("merging"), facts.pop("prompts")
            return cls(
                vision=VisionShape(**facts.pop("vision")),
                text=TextShape(**facts.pop("text")),
                merging=MergeSchedule(**{key: _as_tuple(value) for key, value in merging.items()}) if merging else None,
                prompts=PromptShape(**prompts) if prompts else None,
                sampling=Sampling(**facts.pop("sampling")),
                **{key: _as_tuple(value) for key, value in facts.items()},
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a model card: {error}") from error


class ClipModel(nn.Module):
    """Vision and text tower of one card, with random weights until they are loaded."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card
        self.vision = VisionTower(
            card.vision,
            merging=card.merging,
            num_frames=card.sampling.num_frames,
            prompts=card.prompts,
            token_shift=card.token_shift,
            lora_rank=card.lora_rank,
        )
        self.text = TextTower(card.text, lora_rank=card.lora_rank)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(0.07)))  # where CLIP's own training starts

    def folded(self) -> "ClipModel":
        """Make the low-rank updates part of the weights, in place; the card follows."""
        fold(self)
        self.card = replace(self.card, lora_rank=0)
        return self


def save_model(model: ClipModel, path: Path) -> None:
    """Write a model's weights with its card; ``load_encoder`` takes the file."""
    weights = {name: weight.detach().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, path, metadata={CARD: model.card.to_json()})


def read_card(path: Path) -> Card | None:
    """Read the card of a weights file; None when it is not one of ours.

    Raises:
        EncoderError: The card cannot be understood.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CARD)
        return Card.from_json(text) if text else None
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{path}: must be a readable file of named tensors alone: {error}") from error
    except ValueError as error:
        raise EncoderError(f"{path}: {error}") from error


def load_model(path: Path, card: Card) -> ClipModel:
    """Read a file that ``save_model`` wrote.

    Raises:
        EncoderError: Weights are missing, unknown or of another shape.
    """
    model = ClipModel(card)
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    load_exactly(model, weights, str(path))
    return model.eval()


def load_exactly(model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Load weights of which none is missing, unknown or of another shape.

    Raises:
        EncoderError: Lists what is.
    """
    own = model.state_dict()
    for kind, names in find_misfits(own, weights).items():
        if kind == "of another shape":
            names = [f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}" for name in names]
        raise EncoderError(f"{source}: {len(names)} weights {kind}: {', '.join(names)}")
    model.load_state_dict(weights)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
