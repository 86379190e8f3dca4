"""Saving and loading trained aligners: safetensors files with a card that names the kind of aligner."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vidret.align.glscl import ConceptAligner
from vidret.align.glscl_checkpoint import build_concepts
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_checkpoint import build_aligner
from vidret.errors import AlignerError

FORMAT = 1
CARD = "vidret-aligner"

# Builders of each kind of aligner from weights and card.
BUILDERS: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Aligner | ConceptAligner]] = {
    Aligner.kind: lambda weights, card: build_aligner(weights, {}),
    ConceptAligner.kind: lambda weights, card: build_concepts(
        weights, temperature=card["temperature"], heads=card["heads"], share=card["share"], names={}
    ),
}


def save_aligner(aligner: Aligner | ConceptAligner, path: Path) -> None:
    """Write a trained aligner to a file that ``load_aligner`` reads."""
    card = {"format": FORMAT, "aligner": aligner.kind, **aligner.describe()}
    weights = {name: weight.detach().contiguous() for name, weight in aligner.state_dict().items()}
    save_file(weights, path, metadata={CARD: json.dumps(card)})


def load_aligner(path: Path) -> Aligner | ConceptAligner:
    """Load a trained aligner.

    Raises:
        AlignerError: The file cannot be read, or does not contain exactly the weights of an aligner.
    """
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {}).get(CARD, "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if card.get("format") != FORMAT or card.get("aligner") not in BUILDERS:
            raise AlignerError("not an aligner that this version of vidret supports")
        return BUILDERS[card["aligner"]](weights, card)
    except (AlignerError, SafetensorError, OSError, ValueError, KeyError) as error:
        raise AlignerError(f"{path}: {error}") from error
