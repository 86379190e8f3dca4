"""Merging tokens without training, in CLIP towers that were trained without it: how much, and how names say so.

A merged model is another model: its name ends in ``#merge=half``, and the schedule is in its card, hence in its
fingerprint.

Reference: Bolya et al. 2023, "Token Merging: Your ViT But Faster".
"""

from dataclasses import replace
from typing import Literal, get_args

from vidret.encode.encoder import WHOLE
from vidret.encode.model import ClipModel
from vidret.encode.tempme import MergeSchedule
from vidret.errors import EncoderError

MergeLevel = Literal["off", "gentle", "half"]
MERGE_LEVELS: tuple[MergeLevel, ...] = get_args(MergeLevel)
OFF: MergeLevel = "off"
MARK = "#merge="
MAX_MACS_RATIOS: dict[MergeLevel, float] = {"gentle": 0.75, "half": 0.5}


def split_merge(name: str) -> tuple[str, MergeLevel]:
    """Return the name of an encoder without its merging, and the level of its merging.

    Raises:
        EncoderError: The level is unknown.
    """
    name, whole = name.removesuffix(WHOLE), WHOLE if name.endswith(WHOLE) else ""
    plain, mark, level = name.rpartition(MARK)
    if not mark:
        return name + whole, OFF
    for known in MERGE_LEVELS:
        if level == known:
            return plain + whole, known
    raise EncoderError(f"{MARK} must be followed by {', '.join(MERGE_LEVELS)}, got {level}")


def join_merge(name: str, level: MergeLevel) -> str:
    """Return the name of an encoder at a level of merging, whatever its level was."""
    plain = split_merge(name)[0]
    base, whole = plain.removesuffix(WHOLE), WHOLE if plain.endswith(WHOLE) else ""
    return f"{base}{'' if level == OFF else MARK + level}{whole}"


def refuse_merge(name: str, level: MergeLevel) -> None:
    """Raise EncoderError for a model that cannot merge tokens, unless merging is off."""
    if level != OFF:
        raise EncoderError(f"merge must be off for {name}, which is not a ViT with CLIP's standard blocks, got {level}")


def merge_tokens(model: ClipModel, level: MergeLevel, *, name: str) -> ClipModel:
    """Let the vision tower of a model merge tokens within each frame, in place, and return the model.

    Frames stay independent of each other, and no weight changes.

    Raises:
        EncoderError: The model merges tokens already, or shifts them between frames, or is too small to merge so many.
    """
    card = model.card
    if level == OFF:
        return model
    if card.merging is not None or card.token_shift:
        reason = "merges already as it was trained" if card.merging is not None else "shifts tokens between frames"
        raise EncoderError(f"merge must be off for {name}, which {reason}, got {level}")
    vision = card.vision
    try:
        schedule = MergeSchedule.for_budget(
            MAX_MACS_RATIOS[level],
            width=vision.width,
            num_frames=card.sampling.num_frames,
            num_patches=vision.num_patches,
            num_layers=vision.layers,
            joins=False,
        )
    except ValueError as error:
        raise EncoderError(f"{name}: merge must be off, got {level}: {error}") from error
    model.card = replace(card, merging=schedule)
    model.vision.merging = schedule
    return model
