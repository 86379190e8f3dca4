"""Model files: safetensors with a card in the metadata, of a single model or of a joint model with parts.

A joint file is the file of an encoder's towers with added parts. The weights of a part have its name as prefix, such as
``aligner.``, and its card is in the card of the towers, under ``parts``. A part has the content of its own file.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from safetensors import SafetensorError, safe_open

from vidret.disk import replacing, writing_tensors
from vidret.errors import OptionError, VidretError
from vidret.text import format_count, parse_json

if TYPE_CHECKING:  # without torch, which an index whose encoder has no file does not need here
    from torch import Tensor, nn

CARD = "vidret"  # key of the card in the metadata
TRAINED_ON = "trained_on"  # key in a card of the training data
DIGEST_SIZE = 6  # bytes; among 100,000 videos, another one's digest matches with a chance of one in three billion
JOINT_FORMAT = 2  # format of a card with parts
MAX_LISTED = 10  # weights in a message
ALIGNER, HEAD, BANK = "aligner", "head", "bank"
NOTHING = re.compile(r"(?!)")


def find_package(name: str) -> Path | None:
    """Return the folder of an installed package, whose code is not imported; None if it is not installed."""
    spec = importlib.util.find_spec(name)
    folders = list((spec.submodule_search_locations if spec is not None else None) or [])
    return Path(folders[0]) if folders else None


def locate_model(name: str) -> str:
    """Return the name of a model, with or without ``hf:``, with an absolute path if it is that of a file or a folder.

    An index stores the name, and a later run may start in another folder.
    """
    scheme, path = ("hf:", name.removeprefix("hf:")) if name.startswith("hf:") else ("", name)
    return f"{scheme}{Path(path).resolve()}" if path and Path(path).exists() else name


class TrainedOn(NamedTuple):
    """The training data of a model: one or several splits, and digests of the names of their videos without suffix."""

    split: str
    digests: Sequence[str]

    @classmethod
    def describe(cls, split: str, videos: Iterable[str]) -> Self:
        """Return the record of training on these videos; their names can be tested against it, but not read from it."""
        return cls(split, sorted(map(_digest, videos)))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the training data of the model in a file; None if the file does not have them."""
        try:
            return cls(*parse_json(read_metadata(path)[CARD])[TRAINED_ON])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None

    @classmethod
    def join(cls, known: "Iterable[TrainedOn | None]") -> Self | None:
        """Return the known training data of all parts of a model; None if none are known."""
        parts = [part for part in known if part is not None]
        if not parts:
            return None
        splits = dict.fromkeys(name for part in parts for name in part.split.split(" and "))
        return cls(" and ".join(splits), sorted({digest for part in parts for digest in part.digests}))

    def find(self, videos: Iterable[str]) -> list[str]:
        """Return those of the videos whose names are in the training data."""
        known = set(self.digests)
        return [video for video in videos if _digest(video) in known]


def _digest(video: str) -> str:
    return hashlib.blake2b(video.encode("utf-8", "surrogatepass"), digest_size=DIGEST_SIZE).hexdigest()


class Part(NamedTuple):
    """A part of a model: its card, which is JSON, and its weights under its own names."""

    card: Mapping[str, Any]
    weights: "Mapping[str, Tensor]"


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, such as its card.

    Raise OSError if the file cannot be read, or SafetensorError if the file is not one of safetensors.
    """
    with safe_open(path, "np") as file:
        return file.metadata() or {}


def read_part_cards(path: Path) -> dict[str, dict[str, Any]]:
    """Return the cards of the parts in a joint file, by name; empty for any other safetensors file.

    Raise OSError if the file cannot be read, or SafetensorError if the file is not one of safetensors.
    """
    text = read_metadata(path).get(CARD, "{}")
    try:
        card: Any = parse_json(text)
    except ValueError:
        return {}
    return card.get("parts", {}) if isinstance(card, dict) else {}


def read_part(path: Path, name: str) -> Part | None:
    """Return a part of a joint file; None if it has no such part, or is another safetensors file.

    Raise OSError if the file cannot be read, or SafetensorError if the file is not one of safetensors.
    """
    card, prefix = read_part_cards(path).get(name), f"{name}."
    if card is None:
        return None
    with safe_open(path, "pt") as file:
        names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
        return Part(card, {key.removeprefix(prefix): file.get_tensor(key) for key in names})


def read_towers(path: Path) -> "dict[str, Tensor]":
    """Return the weights of a file that belong to none of its parts.

    Raise OSError if the file cannot be read, or SafetensorError if the file is not one of safetensors.
    """
    prefixes = tuple(f"{name}." for name in read_part_cards(path))
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if not name.startswith(prefixes)}  # noqa: SIM118


def average_files(first: Path, second: Path, out: Path, weight: float = 0.5) -> None:
    """Write a model with the average weights of two models, such as one before and after further training.

    The average keeps much of what both have learned. Its card is that of the second model, with the videos of both.

    Args:
        first: A model file of vidret.
        second: Another model file, with weights of the same names and shapes.
        out: The file to write.
        weight: Share of the second model, 0..1.

    Raises:
        VidretError: A file cannot be read or is not of vidret, the weights differ in names or shapes, or the share is
            out of range.

    Reference: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
    """
    if not 0 <= weight <= 1:
        raise OptionError(f"weight must be from 0 to 1, got {weight}")
    import torch
    from safetensors.torch import load_file

    try:
        models = [load_file(path) for path in (first, second)]
        metadata = read_metadata(second)
    except (OSError, SafetensorError) as error:
        raise VidretError(f"{first}, {second}: {error}") from error
    shapes = [{name: tuple(tensor.shape) for name, tensor in model.items()} for model in models]
    if CARD not in metadata:
        raise VidretError(f"{second}: must be a model of vidret, as vidret convert writes")
    if unlike := sorted(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)):
        raise VidretError(f"{second}: must have the weights of {first}, got others at {len(unlike)}: {unlike[0]}")
    old, averages = models
    for name, new in averages.items():
        if new.is_floating_point():
            averages[name] = torch.lerp(old[name].float(), new.float(), weight).to(new.dtype)
    if (trained_on := TrainedOn.join(map(TrainedOn.read, (first, second)))) is not None:
        metadata[CARD] = json.dumps({**json.loads(metadata[CARD]), TRAINED_ON: trained_on})
    save_tensors(averages, out, metadata)


def save_joint(path: Path, towers: Part, parts: Mapping[str, Part], trained_on: TrainedOn | None = None) -> None:
    """Write towers and parts to one file; without parts, it is the file of the towers.

    ``trained_on`` is added to the card, unless it is None.

    Raise VidretError if a weight of the towers has the prefix of a part.
    """
    weights, card = dict(towers.weights), dict(towers.card)
    for name, part in parts.items():
        if taken := [key for key in towers.weights if key.startswith(f"{name}.")]:
            raise VidretError(f"{path}: weights of the towers must not be called {name}.*, got {taken[0]}")
        weights |= {f"{name}.{key}": weight for key, weight in part.weights.items()}
    if parts:
        card |= {"format": JOINT_FORMAT, "parts": {name: part.card for name, part in parts.items()}}
    contiguous = {name: weight.detach().contiguous() for name, weight in weights.items()}
    card |= {} if trained_on is None else {TRAINED_ON: trained_on}
    save_tensors(contiguous, path, {CARD: json.dumps(card)})


def save_tensors(tensors: "dict[str, Tensor]", path: Path, metadata: dict[str, str]) -> None:
    """Write contiguous tensors to a safetensors file, which replaces an older one once it is complete."""
    from safetensors.torch import save_file

    with replacing(path) as draft, writing_tensors(draft):
        save_file(tensors, draft, metadata=metadata)


def translate(name: str, names: Mapping[str, str]) -> str | None:
    """Return a weight's name by a table of names, in which ``*`` is the index of a layer; None if it has none.

    >>> translate("blocks.3.bias", {"blocks.*.bias": "layers.*.b"})
    'layers.3.b'
    """
    if name in names:
        return names[name]
    parts = name.split(".")
    index = next((part for part in parts if part.isdecimal()), "")
    pattern = names.get(".".join("*" if part.isdecimal() else part for part in parts))
    return None if pattern is None else pattern.replace("*", index)


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Return how many layers weights are of, by the part of their names that follows a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})


def rename_weights(
    weights: "Mapping[str, Tensor]",
    names: Mapping[str, str],
    *,
    ignored: re.Pattern[str] = NOTHING,
    error: type[VidretError] = VidretError,
) -> "dict[str, Tensor]":
    """Return weights as float32 under the names that ``translate`` gives, without those that ``ignored`` matches.

    Raise ``error`` if the table has no name for a weight; the message lists the first of these.
    """
    renamed, unknown = {}, []
    for name, weight in weights.items():
        new_name = translate(name, names)
        if new_name is not None:
            renamed[new_name] = weight.float()
        elif not ignored.match(name):
            unknown.append(name)
    refuse_weights("unknown", unknown, error)
    return renamed


def load_exactly(
    module: "nn.Module",
    weights: "Mapping[str, Tensor]",
    *,
    show: Callable[[str], str] = str,
    error: type[VidretError] = VidretError,
) -> None:
    """Load the weights of a module, all of them or none; ``show`` returns the name of a weight for messages.

    Raise ``error`` if weights are missing, unknown or of another shape; the message lists the first of each.
    """
    expected = module.state_dict()
    changed = [name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape]
    misfits = {
        "missing": [show(name) for name in expected.keys() - weights.keys()],
        "unknown": [show(name) for name in weights.keys() - expected.keys()],
        "of another shape": [
            f"{show(name)} {tuple(weights[name].shape)} for {tuple(expected[name].shape)}" for name in changed
        ],
    }
    reasons = [_list_weights(kind, names) for kind, names in misfits.items() if names]
    if reasons:
        raise error("; ".join(reasons))
    module.load_state_dict(weights)


def refuse_weights(kind: str, names: Iterable[str], error: type[VidretError]) -> None:
    """Raise an error that lists the first weights, if there are any."""
    if listed := list(names):
        raise error(_list_weights(kind, listed))


def _list_weights(kind: str, names: Sequence[str]) -> str:
    shown = [*sorted(names)[:MAX_LISTED], *(["..."] if len(names) > MAX_LISTED else [])]
    return f"{format_count(len(names), 'weight')} {kind}: {', '.join(shown)}"
