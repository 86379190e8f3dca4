"""Trained aligners as files: safetensors files with a card that names the kind of aligner."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidret.align.glscl import ConceptAligner
from vidret.align.glscl_checkpoint import build_concepts
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_checkpoint import build_aligner
from vidret.errors import AlignerError
from vidret.model_files import ALIGNER, Part, read_part

FORMAT = 1
CARD = "vidret-aligner"

# Builders of each kind of aligner from weights and card.
BUILDERS: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Aligner | ConceptAligner]] = {
    Aligner.kind: lambda weights, card: build_aligner(weights, {}, unit_tokens=card.get("unit_tokens", False)),
    ConceptAligner.kind: lambda weights, card: build_concepts(
        weights, temperature=card["temperature"], heads=card["heads"], share=card["share"], names={}
    ),
}


def describe_aligner(aligner: Aligner | ConceptAligner) -> Part:
    """Return the weights and the card of an aligner, as a file holds them."""
    return Part({"format": FORMAT, "aligner": aligner.kind, **aligner.describe()}, aligner.state_dict())


def load_aligner(path: Path) -> Aligner | ConceptAligner:
    """Load a trained aligner from a file of its own, or from a joint file.

    Raises:
        AlignerError: The file cannot be read, or does not contain exactly the weights of an aligner.
    """
    try:
        card, weights = read_part(path, ALIGNER) or _read_own(path)
        if card.get("format") != FORMAT or card.get("aligner") not in BUILDERS:
            raise AlignerError("not an aligner that this version of vidret supports")
        return BUILDERS[card["aligner"]](weights, card)
    except (AlignerError, SafetensorError, OSError, ValueError, KeyError) as error:
        raise AlignerError(f"{path}: {error}") from error


def _read_own(path: Path) -> Part:
    """Return what an aligner's own file holds; the card is empty if it has none."""
    with safe_open(path, "pt") as file:
        card = json.loads((file.metadata() or {}).get(CARD, "{}"))
        return Part(card, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
