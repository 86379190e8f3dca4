"""Joint files: an encoder with its aligner, its grounding head, and a bank of queries for calibrations."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from vidret.channels.picture.query_bank import QueryBank
from vidret.encode.names import OFF, MergeLevel
from vidret.errors import VidretError
from vidret.model_files import (
    ALIGNER,
    BANK,
    CARD,
    HEAD,
    TRAINED_ON,
    Part,
    TrainedOn,
    read_metadata,
    read_part,
    read_part_cards,
    save_joint,
)
from vidret.text import parse_json

if TYPE_CHECKING:
    from vidret.encode.clip.model import Card, ClipModel


def join_files(
    base: Path, others: Sequence[Path], out: Path, *, bank: QueryBank | None = None, merge: MergeLevel = OFF
) -> list[str]:
    """Write a model file with parts of other files added.

    Args:
        base: Model file of vidret, whose towers and parts are kept.
        others: Files of vidret: an aligner, a head, or a model, of which token merging, low-rank updates, prompts and
            parts are taken.
        out: The joint file.
        bank: Bank of queries to add.
        merge: Level of token merging in the towers, without training.

    Returns:
        A line for each part: what it is and what it was made for.

    Raises:
        VidretError: A file cannot be read, a part does not fit the towers, or the model has it already.
    """
    from vidret.encode.clip.model import describe_towers, load_model, merge_tokens

    card, parts = _read_model(base)
    if card is None:
        raise VidretError(f"{base}: must be a model of vidret, as vidret convert writes, got a part of one")
    model, notes = load_model(base, card), [f"towers: {card.method} on {card.backbone}, of {base}"]
    for other in others:
        other_card, added = _read_model(other)
        if other_card is not None and (other_card.merging or other_card.prompts):
            model, note = _add_to_towers(model, base, other, other_card)
            notes.append(note)
        elif not added:
            raise VidretError(f"{other}: must have token merging, prompts or a part to add, got plain towers")
        for name, part in added.items():
            if name in parts:
                raise VidretError(f"{other}: {base} has the part {name} already")
            notes.append(_check_part(other, name, part, model.card))
            parts[name] = part
    model = merge_tokens(model, merge, name=str(base))
    if bank is not None:
        parts[BANK] = bank.to_part()
        notes.append(f"bank: {len(bank.queries)} queries of {bank.name}, with which every index is calibrated")
    save_joint(out, describe_towers(model), parts, TrainedOn.join(map(TrainedOn.read, (base, *others))))
    return notes


def _read_model(path: Path) -> "tuple[Card | None, dict[str, Part]]":
    """Return the card of the towers in a file, None if it has none, and its parts."""
    from safetensors.torch import load_file

    from vidret.align.files import CARD as ALIGNER_CARD
    from vidret.align.files import describe_aligner, load_aligner
    from vidret.encode.clip.model import read_card
    from vidret.ground.checkpoint import read_head_card

    try:
        metadata = read_metadata(path)
        if ALIGNER_CARD in metadata:
            return None, {ALIGNER: describe_aligner(load_aligner(path))}
        card: Any = parse_json(metadata.get(CARD, "{}"))
        if "vision" in card:
            parts = {name: read_part(path, name) for name in read_part_cards(path)}
            return read_card(path), {name: part for name, part in parts.items() if part is not None}
        read_head_card(path)  # raises for a file that is not vidret's
        card.pop(TRAINED_ON, None)  # the card of the joint file has it
        return None, {HEAD: Part(card, load_file(path))}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise VidretError(f"{path}: {error}") from error


def _add_to_towers(model: "ClipModel", base: Path, other: Path, added: "Card") -> "tuple[ClipModel, str]":
    """Return the towers with the merging, the low-rank updates and the prompts of another model."""
    import torch

    from vidret.encode.clip.model import ClipModel, load_model

    base_card = model.card
    if (base_card.vision, base_card.text) != (added.vision, added.text):
        raise VidretError(f"{other}: its towers must have the shapes of those of {base}, got {added.vision}")
    for name in ("merging", "prompts", "lora_rank"):
        if getattr(base_card, name) and getattr(added, name):
            raise VidretError(f"{other}: has {name.replace('_', ' ')}, and {base} has its own already")
    card = replace(
        base_card,
        method="joint",
        merging=base_card.merging or added.merging,
        prompts=base_card.prompts or added.prompts,
        lora_rank=base_card.lora_rank or added.lora_rank,
        sampling=added.sampling if added.merging else base_card.sampling,
    )
    try:
        joined = ClipModel(card)
    except ValueError as error:
        raise VidretError(f"{other}: does not fit {base}: {error}") from error
    mine, theirs = model.state_dict(), load_model(other, added).state_dict()
    joined.load_state_dict({**{name: theirs[name] for name in theirs.keys() - mine.keys()}, **mine})
    is_equal = all(torch.equal(mine[name], theirs[name]) for name in mine.keys() & theirs.keys())
    what = [name for name, has in (("token merging", added.merging), ("prompts", added.prompts)) if has]
    what += ["low-rank updates"] if added.lora_rank else []
    fit = "was trained on these weights" if is_equal else "was trained on other weights: evaluate the result"
    return joined.eval(), f"{', '.join(what)}: of {other}, which {fit}"


def _check_part(path: Path, name: str, part: Part, towers: "Card") -> str:
    """Return a line about a part that fits the towers.

    Raises:
        VidretError: It does not fit.
    """
    from vidret.align.files import read_dim

    if name == ALIGNER:
        dim = read_dim(part.weights) or towers.vision.dim
        if dim != towers.vision.dim:
            raise VidretError(f"{path}: the aligner must be for vectors of {towers.vision.dim}, got {dim}")
        return f"aligner: {part.card['aligner']}, of {path}; fits vectors of {dim}"
    if name == HEAD:
        widths = [_count_inputs(part, side) for side in ("video", "query")]
        reads, wanted = "layers", [towers.vision.width, towers.text.width]
        if part.card.get("reads") == "vectors":  # vectors of an index, each with its similarity and its change
            reads, wanted = "vectors", [towers.vision.dim + 2, towers.text.dim]
        if widths != wanted:
            expected = f"{wanted[0]} (frames) and {wanted[1]} (words)"
            raise VidretError(f"{path}: the head must read {reads} of {expected}, got {widths[0]} and {widths[1]}")
        return f"head: of {path}, trained on {part.card['backbone']}; fits {reads} of {widths[0]} and {widths[1]}"
    return f"{name}: of {path}"


def _count_inputs(part: Part, side: str) -> int:
    """Return the width of the layers that a head reads, without its temporal endpoint feature."""
    width = part.weights[f"block.{side}_map.0.weight"].numel()
    return width - 2 if side == "video" and part.card.get("tef", True) else width
