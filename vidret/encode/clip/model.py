"""CLIP models with their cards, their files (safetensors with the card in the metadata), and their cost."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape, TextTower
from vidret.encode.clip.vision import VisionShape, VisionTower
from vidret.encode.names import OFF, MergeLevel
from vidret.errors import EncoderError, VidretError, read_fault
from vidret.layers import fold
from vidret.model_files import CARD, JOINT_FORMAT, TRAINED_ON, Part, load_exactly, read_towers, save_joint
from vidret.text import parse_json
from vidret.types import FRAME_RULES, Resize, Sampling

FORMAT = 1
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ADDED = re.compile(r"\.lora\.|^vision\.(temporal|prompts)\.")  # names of weights that CLIP does not have
DRAWING = {nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_, torch.Tensor.normal_, torch.Tensor.uniform_}
MAX_MACS_RATIOS: dict[MergeLevel, float] = {"gentle": 0.75, "half": 0.5}
MAY_BE_0 = ("r", "lora_rank", "sound_rate")  # counts in a card; all others are at least 1, unlike indices of layers


@dataclass(frozen=True, slots=True)
class Card:
    """The description of a model: method, backbone, and all settings that its forward pass needs besides weights.

    ``mean`` and ``std`` normalise pixels on the scale 0..1; ``sampling`` is the frame sampling it was trained with.
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
        """Return the image size and interpolation that the model expects."""
        size = self.vision.image_size
        return Resize(size, size, "bilinear" if self.interpolation == "bilinear" else "bicubic")

    def to_json(self) -> str:
        """Return the card as JSON.

        Fields added to cards later are left out while they are off, so that fingerprints of older models stay.
        """
        fields = {"format": FORMAT, **asdict(self), "sampling": self.sampling.to_dict()}
        if self.prompts is not None and not self.prompts.spread:
            del fields["prompts"]["spread"]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """Parse a card from JSON; raise ValueError if the text is not a card, or has another format version."""
        fields: Any = parse_json(text)
        if not isinstance(fields, dict):
            raise ValueError(f"not a model card: {text[:80]}")
        fields.pop(TRAINED_ON, None)
        expected = FORMAT if fields.pop("parts", None) is None else JOINT_FORMAT
        if (version := fields.pop("format", None)) != expected:
            raise ValueError(f"the card's format must be {expected}, got {version}; update vidret to read a newer one")
        try:
            merging, prompts = fields.pop("merging"), fields.pop("prompts")
            return cls(
                vision=VisionShape(**fields.pop("vision")),
                text=TextShape(**fields.pop("text")),
                merging=MergeSchedule(**{key: _as_tuple(value) for key, value in merging.items()}) if merging else None,
                prompts=PromptShape(**prompts) if prompts else None,
                sampling=Sampling(**fields.pop("sampling")),
                **{key: _as_tuple(value) for key, value in fields.items()},
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a model card: {error}") from error

    def check(self) -> None:
        """Raise ValueError for counts and rates out of range, and for an unknown rule of sampling."""
        for part in (self, self.vision, self.text, self.sampling, self.merging, self.prompts):
            for known in fields(part) if part is not None else ():
                value, least = getattr(part, known.name), int(known.type is int and known.name not in MAY_BE_0)
                counts = (value,) if known.type is int else value if known.type == tuple[int, ...] else ()
                if any(type(count) is not int or count < least for count in counts):
                    raise ValueError(f"{known.name} must be an integer of at least {least}, got {value}")
        if not 0 < self.sampling.fps < math.inf:
            raise ValueError(f"fps must be positive, got {self.sampling.fps}")
        if self.sampling.rule not in FRAME_RULES:
            raise ValueError(f"rule must be one of {', '.join(FRAME_RULES)}, got {self.sampling.rule}")


class ClipModel(nn.Module):
    """The vision and text towers of a card, with random weights."""

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
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(0.07)))  # CLIP's initial value

    def folded(self) -> "ClipModel":
        """Merge the low-rank updates into the weights in place, update the card, and return the model."""
        fold(self)
        self.card = replace(self.card, lora_rank=0)
        return self


class Undrawn(TorchFunctionMode):
    """Leave the weights of modules made in the block uninitialised, instead of drawing them.

    Drawing them takes longer than loading a large model. The device "meta" does not draw them either, but there PyTorch
    imports its compiler at the first random number, which takes two seconds.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch, replacing those that draw random numbers."""
        keywords = dict(kwargs or {})
        if function in DRAWING:
            return args[0] if args else keywords["tensor"]
        return (torch.empty if function is torch.randn else function)(*args, **keywords)


def save_model(model: ClipModel, path: Path) -> None:
    """Write a model's weights and card to a safetensors file that ``load_encoder`` loads."""
    save_joint(path, describe_towers(model), {})


def describe_towers(model: ClipModel) -> Part:
    """Return the weights and the card of a model for its file."""
    return Part(json.loads(model.card.to_json()), model.state_dict())


def read_card(path: Path) -> Card | None:
    """Return the card of a weights file, or None if it has none.

    Raise EncoderError if the file cannot be read, or its card is invalid.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CARD)
        return Card.from_json(text) if text else None
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{path}: must be a readable file of nothing but named tensors: {error}") from error
    except ValueError as error:
        raise EncoderError(f"{path}: {error}") from error


def load_model(path: Path, card: Card) -> ClipModel:
    """Load the towers of a file that ``save_model`` wrote, or of a joint file, in evaluation mode.

    Raise EncoderError if weights are missing, unknown or of another shape.
    """
    return fill_model(card, read_towers(path), str(path))


def fill_model(card: Card, weights: Mapping[str, torch.Tensor], source: str) -> ClipModel:
    """Return the model of a card with weights that must match it exactly, in evaluation mode.

    Raise EncoderError if weights are missing, unknown or of another shape; the message lists some after the source.
    """
    try:
        card.check()
        if (layers := max(card.vision.layers, card.text.layers)) > len(weights):  # else they would be made one by one
            raise VidretError(f"must have weights for {layers} layers, got {len(weights)} in all")
        torch.tensor([card.mean, card.std]).reshape(2, 3)  # per colour channel
        with Undrawn():
            model = ClipModel(card)
        load_exactly(model, weights)
    except VidretError as error:
        raise EncoderError(f"{source}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        raise EncoderError(f"{source}: the card must describe a model: {read_fault(error)}") from error
    return model.eval()


@dataclass(frozen=True, slots=True)
class Cost:
    """The operations and the size of a model.

    Attributes:
        video_gmacs: Billions of multiply-adds of the vision tower for one video of the card's number of frames, which
            papers call GFLOPs; a factor of 4 is assumed between the widths of an MLP and its block.
        output_tokens: Tokens of a video after the last layer.
        num_parameters: Parameters of both towers.
        num_added: Number of these that CLIP does not have: low-rank updates, temporal positions, prompts. TempMe trains
            only these.
    """

    video_gmacs: float
    output_tokens: int
    num_parameters: int
    num_added: int


def measure_cost(card: Card) -> Cost:
    """Return the cost of a model from its card, without making weights."""
    vision, num_frames = card.vision, card.sampling.num_frames
    schedule = card.merging or MergeSchedule(layers=(), factors=(), r=0)
    num_prompts = card.prompts.num_prompts if card.prompts is not None else 0
    shape = {"num_frames": num_frames, "num_patches": vision.num_patches, "num_layers": vision.layers}
    last = schedule.steps(**shape, num_prompts=num_prompts)[-1]
    patches = num_frames * vision.num_patches * 3 * vision.patch**2 * vision.width
    with Undrawn():
        sizes = {name: weight.numel() for name, weight in ClipModel(card).named_parameters()}
    added = (size for name, size in sizes.items() if ADDED.search(name))
    return Cost(
        video_gmacs=(patches + schedule.macs(width=vision.width, **shape, num_prompts=num_prompts)) / 1e9,
        output_tokens=last.clips * last.left,
        num_parameters=sum(sizes.values()),
        num_added=sum(added),
    )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def merge_tokens(model: ClipModel, level: MergeLevel, *, name: str) -> ClipModel:
    """Add token merging within each frame to a model's vision tower, in place, and return the model.

    Frames stay independent of each other, and no weight changes. Raise EncoderError if the model already merges tokens,
    shifts them between frames, or has too few tokens for the level.
    """
    card = model.card
    if level == OFF:
        return model
    if card.merging is not None or card.token_shift:
        reason = "merges already as it was trained" if card.merging is not None else "shifts tokens between frames"
        raise EncoderError(f"merge must be off for {name}, which {reason}, got {level}")
    vision = card.vision
    try:
        schedule = MergeSchedule.within_frames(
            MAX_MACS_RATIOS[level],
            width=vision.width,
            num_frames=card.sampling.num_frames,
            num_patches=vision.num_patches,
            num_layers=vision.layers,
        )
    except ValueError as error:
        raise EncoderError(f"{name}: merge must be off, got {level}: {error}") from error
    model.card = replace(card, merging=schedule)
    model.vision.merging = schedule
    return model
