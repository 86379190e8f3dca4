"""Draw what TempMe merges: every patch of a video's frames in the colour of the token that it became part of.

    python tools/draw_merging.py VIDEO OUT.png [--model NAME_OR_FILE] [--frames 12] [--r 2]

The model is ViT-B/32 or ViT-B/16 with random weights (patches merge by likeness, so that these tell already), or a file
that ``vidret convert`` wrote; ``--r`` changes its schedule. Above each map is its frame. Patches that merged with none
keep their own colours, all others have lost theirs to the token's.
"""

import argparse
import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from vidret.encode.clip.model import CLIP_MEAN, CLIP_STD, load_model, read_card
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.vision import VisionShape, VisionTower
from vidret.encode.encoder import normalise_pixels
from vidret.errors import VidretError
from vidret.present.chart import FAINT, INK, PAPER
from vidret.present.sheet import GAP
from vidret.text import format_time, sanitize
from vidret.types import Frames, Resize
from vidret.video.probe import probe
from vidret.video.reader import read_frames
from vidret.video.sampling import segment_centre

COLUMNS = 6
LINE = 20
SWATCHES = 12
GOLDEN_ANGLE = (3 - 5**0.5) / 2  # of a turn: however many hues, neighbours in the order of sizes are far apart
FIRST_HUE = 0.57
TINTS = (0.4, 0.65)  # of the smallest and of the biggest merged token
MIN_WIDTH = 940  # for the words
BORDER = (20, 20, 24)
RANDOM = {f"ViT-B/{patch}": VisionShape(224, patch, 768, 12, 12, 512, quick_gelu=True) for patch in (32, 16)}


@dataclass(frozen=True, slots=True, eq=False)
class MergeMap:
    """Which of a video's final tokens each patch is part of, and of how many patches each token is made."""

    sources: Int[np.ndarray, "frame row column"]
    sizes: Int[np.ndarray, " token"]


@torch.inference_mode()
def map_merging(
    tower: VisionTower,
    pixels: UInt8[np.ndarray, "frame height width 3"],
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> MergeMap:
    """Run a tower over one video and trace its patches."""
    pictures = normalise_pixels(torch.from_numpy(pixels), mean, std, torch.float32)
    output = tower(pictures, num_frames=len(pixels), tokens=True, trace=True)
    side = tower.shape.image_size // tower.shape.patch
    assert output.sources is not None
    assert output.sizes is not None
    assert output.mask is not None
    tokens = output.sources[0, :, 1:] - len(pixels)  # the class tokens come first and never merge
    sources = rearrange(tokens, "frame (row column) -> frame row column", row=side).numpy()
    return MergeMap(sources, output.sizes[0].masked_fill(~output.mask[0], 0).round().long().numpy())


def choose_colours(sizes: Int[np.ndarray, " token"]) -> UInt8[np.ndarray, "token 3"]:
    """Give each token a hue, the biggest the most different ones."""
    colours = np.zeros((len(sizes), 3), np.uint8)
    for rank, token in enumerate(np.argsort(-sizes, kind="stable")):
        hue = (FIRST_HUE + rank * GOLDEN_ANGLE) % 1
        colours[token] = [round(255 * part) for part in colorsys.hsv_to_rgb(hue, (0.9, 0.65)[rank // 8 % 2], 1.0)]
    return colours


def tint_frame(
    picture: UInt8[np.ndarray, "height width 3"],
    tokens: Int[np.ndarray, "row column"],
    sizes: Int[np.ndarray, " token"],
    colours: UInt8[np.ndarray, "token 3"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay the colours of merged tokens over a frame, the stronger the bigger they are, with lines between tokens."""
    patch = len(picture) // len(tokens)
    weakest, strongest = TINTS
    steps = np.log(np.maximum(sizes, 2) / 2) / max(math.log(max(sizes.max(), 2) / 2), 1e-9)
    strength = np.where(sizes > 1, weakest + (strongest - weakest) * steps, 0.0)
    place = np.kron(tokens, np.ones((patch, patch), np.int64))
    share = strength[place][..., None]
    grey = picture.mean(axis=-1, keepdims=True)
    base = np.where(share > 0, grey, picture)  # so that no colour of the frame is taken for a tint
    tinted = (1 - share) * base + share * colours[place] * (0.5 + 0.5 * grey / 255)
    border = np.zeros(place.shape, bool)
    border[1:] |= place[1:] != place[:-1]
    border[:, 1:] |= place[:, 1:] != place[:, :-1]
    tinted[border] = BORDER
    return np.asarray(tinted.round().astype(np.uint8))


def draw_map(frames: Frames, merged: MergeMap, title: str, note: str) -> Image.Image:
    """Draw every frame with its map below it, and a legend of the biggest tokens."""
    side = frames.pixels.shape[1]
    columns = min(COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    head, cell = GAP + 4 * LINE, 2 * side + LINE + GAP
    sheet = Image.new("RGB", (max(MIN_WIDTH, GAP + columns * (side + GAP)), head + rows * cell), PAPER)
    pen, colours = ImageDraw.Draw(sheet), choose_colours(merged.sizes)
    bold, small = ImageFont.load_default(17), ImageFont.load_default(13)
    pen.text((GAP, GAP), title, INK, bold)
    pen.text((GAP, GAP + LINE + 4), note, FAINT, small)
    left = GAP
    for token in [
        int(token) for token in np.argsort(-merged.sizes, kind="stable")[:SWATCHES] if merged.sizes[token] > 1
    ]:
        spread = int((merged.sources == token).any(axis=(1, 2)).sum())
        words = f"{merged.sizes[token]} patches, {spread} frame{'s' * (spread > 1)}"
        width = 18 + int(pen.textlength(words, small)) + 14
        if left + width > sheet.width:
            break
        pen.rectangle(
            (left, GAP + 2 * LINE + 7, left + 12, GAP + 2 * LINE + 19), tuple(colours[token].tolist()), BORDER
        )
        pen.text((left + 18, GAP + 2 * LINE + 4), words, INK, small)
        left += width
    for number, (picture, time) in enumerate(zip(frames.pixels, frames.times, strict=True)):
        x, y = GAP + number % columns * (side + GAP), head + number // columns * cell
        sheet.paste(Image.fromarray(picture), (x, y))
        tinted = tint_frame(picture, merged.sources[number], merged.sizes, colours)
        sheet.paste(Image.fromarray(tinted), (x, y + side))
        pen.text((x, y + 2 * side + 2), format_time(float(time)), FAINT, small)
    return sheet


def load_tower(
    model: str, num_frames: int, r: int | None
) -> tuple[VisionTower, Resize, Sequence[float], Sequence[float]]:
    """Build the tower that merges, and say what pictures it looks at: size, mean and deviation of pixels."""
    if model in RANDOM:
        torch.manual_seed(0)
        schedule = MergeSchedule() if r is None else MergeSchedule(r=r)
        tower = VisionTower(RANDOM[model], merging=schedule, num_frames=num_frames)
        return tower.eval(), Resize(224, 224), CLIP_MEAN, CLIP_STD
    card = read_card(Path(model))
    if card is None:
        raise SystemExit(f"--model must be {', '.join(RANDOM)} or a file that vidret convert wrote, got {model}")
    schedule = card.merging or MergeSchedule()
    merging = schedule if r is None else replace(schedule, r=r)
    tower = VisionTower(
        card.vision,
        merging=merging,
        num_frames=card.sampling.num_frames,
        prompts=card.prompts,
        token_shift=card.token_shift,
    )
    weights = load_model(Path(model), card).folded().vision.state_dict()
    tower.load_state_dict(tower.state_dict() | weights)  # a model that did not merge has no positions in time: zeros
    return tower.eval(), card.resize, card.mean, card.std


def describe(name: str, schedule: MergeSchedule, sizes: Int[np.ndarray, " token"]) -> str:
    """Say in a line what merged by which schedule."""
    joins = ", ".join(f"{n} by {factor}" for n, factor in zip(schedule.layers, schedule.factors, strict=True))
    rule = f"r {schedule.r}, frames joined at layers {joins}, cross {schedule.cross:g}, intra {schedule.intra:g}"
    kept = f"tokens of {sizes[sizes > 0].min()} to {sizes.max()} patches, {(sizes == 1).sum()} unmerged (no tint)"
    return f"{name}: {rule}; {kept}"


def main() -> None:
    """Read the command line, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="ViT-B/32")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--r", type=int, help="tokens a frame that merge in each layer before frames are joined")
    given = parser.parse_args()
    try:
        tower, resize, mean, std = load_tower(given.model, given.frames, given.r)
        indices = segment_centre(probe(given.video).num_frames, given.frames)
        frames = read_frames(given.video, indices=indices, resize=resize)
    except VidretError as error:
        raise SystemExit(str(error)) from error
    merged = map_merging(tower, frames.pixels, mean, std)
    title = f"{sanitize(Path(given.video).name)}: {merged.sources.size} patches -> {(merged.sizes > 0).sum()} tokens"
    random = given.model in RANDOM
    name = f"{given.model}, random weights" if random else sanitize(Path(given.model).name)
    note = describe(name, tower.merging or MergeSchedule(), merged.sizes)
    draw_map(frames, merged, title, note).save(given.out)
    print(f"{given.out}: {title}\n{note}")


if __name__ == "__main__":
    main()
