"""An aligner's own file: safetensors with a card that says which aligner it is."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vidret.align.glscl import ConceptAligner
from vidret.align.glscl_checkpoint import build_concepts
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_checkpoint import build_aligner
from vidret.errors import AlignerError

FORMAT = 1
CARD = "vidret-aligner"
UCOFIA, GLSCL = "ucofia", "glscl"


def save_aligner(aligner: Aligner | ConceptAligner, path: Path) -> None:
    """Write a trained aligner; ``load_aligner`` takes the file."""
    card: dict[str, Any] = {"format": FORMAT, "aligner": UCOFIA}
    if isinstance(aligner, ConceptAligner):
        layer: Any = aligner.finder.decoder[0] if aligner.finder is not None else None
        if layer is None:
            raise ValueError("aligner must be trained to be saved, got one without a head")
        heads = layer.self_attn.num_heads
        card |= {"aligner": GLSCL, "temperature": aligner.temperature, "heads": heads, "share": aligner.share}
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
        if card.get("format") != FORMAT or card.get("aligner") not in (UCOFIA, GLSCL):
            raise AlignerError("not an aligner that this version of vidret knows")
        if card["aligner"] == UCOFIA:
            return build_aligner(weights, {})
        aligner = build_concepts(weights, temperature=card["temperature"], heads=card["heads"], names={})
        aligner.share = card["share"]
        return aligner
    except (AlignerError, SafetensorError, OSError, ValueError, KeyError) as error:
        raise AlignerError(f"{path}: {error}") from error
