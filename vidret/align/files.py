"""An aligner's own file: safetensors with a card that says which aligner it is."""

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

# What builds an aligner of each kind from its weights and its card.
BUILDERS: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], Aligner | ConceptAligner]] = {
    Aligner.kind: lambda weights, card: build_aligner(weights, {}),
    ConceptAligner.kind: lambda weights, card: build_concepts(
        weights, temperature=card["temperature"], heads=card["heads"], share=card["share"], names={}
    ),
}


def save_aligner(aligner: Aligner | ConceptAligner, path: Path) -> None:
    """Write a trained aligner; ``load_aligner`` takes the file."""
    card = {"format": FORMAT, "aligner": aligner.kind, **aligner.describe()}
    weights = {name: weight.detach().contiguous() for name, weight in aligner.state_dict().items()}
    save_file(weights, path, metadata={CARD: json.dumps(card)})


def load_aligner(path: Path) -> Aligner | ConceptAligner:
    """Read a trained aligner.

    Raises:
        AlignerError: The file cannot be read, or does not hold exactly an aligner.
    """
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {}).get(CARD, "{}"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if card.get("format") != FORMAT or card.get("aligner") not in BUILDERS:
            raise AlignerError("not an aligner that this version of vidret knows")
        return BUILDERS[card["aligner"]](weights, card)
    except (AlignerError, SafetensorError, OSError, ValueError, KeyError) as error:
        raise AlignerError(f"{path}: {error}") from error
