"""Draw what the methods of docs/how-it-works.md compute.

    python tools/draw_methods.py VIDEO docs [--query "a rabbit"] [--words rabbit grass]

Writes levels.jpg (the three levels of UCoFiA, for a video and a query, by the starter encoder), sinkhorn.png (scores
before and after SK-norm, of vectors drawn at random around a hub) and head.png (what a grounding head learns to
predict, for a film of the synthetic world).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional

from vidret.align.sinkhorn import sinkhorn
from vidret.data.synthetic.generation import draw_films
from vidret.data.synthetic.render import render
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import STARTER
from vidret.ground.pyramid import make_points
from vidret.present.chart import FAINT, INK, PAPER
from vidret.train.targets import find_targets
from vidret.types import Frames, SegmentEmbedding
from vidret.video.probe import probe
from vidret.video.reader import read_frames
from vidret.video.sampling import segment_centre

WIDTH, GAP, LINE, SIDE = 940, 16, 20, 132
BLUE, AMBER, EMPTY = (38, 84, 160), (226, 160, 40), (232, 232, 230)
Pen = ImageDraw.ImageDraw
NUM_FRAMES, NUM_CLIPS, DIM = 6, 8, 32
TEMPERATURE, STRIDES, HUB, CELL = 0.05, (1, 2, 4, 8), 4, 44


def start_sheet(height: int, title: str, note: str) -> tuple[Image.Image, Pen]:
    """Return an empty sheet with a heading, and a pen."""
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, INK, ImageFont.load_default(17))
    write(pen, (GAP, GAP + LINE + 4), note, FAINT)
    return sheet, pen


def write(pen: Pen, at: tuple[float, float], text: str, colour: tuple[int, int, int] = INK) -> None:
    """Write small text."""
    pen.text(at, text, colour, ImageFont.load_default(13))


def draw_bar(pen: Pen, box: tuple[float, float, float], share: float, text: str) -> None:
    """Draw a bar at (left, top, width) that is filled to a share, with its value to the right."""
    left, top, width = box
    pen.rectangle((left, top, left + width, top + 12), EMPTY)
    pen.rectangle((left, top, left + width * min(max(share, 0.0), 1.0), top + 12), BLUE)
    write(pen, (left + width + 6, top - 3), text)


def tint_patches(picture: UInt8[np.ndarray, "height width 3"], heat: Float[np.ndarray, "row column"]) -> Image.Image:
    """Return a frame in grey, with its patches the more amber the hotter they are, from 0 to 1."""
    grey = np.repeat(picture.mean(axis=-1, keepdims=True), 3, axis=-1)
    strength = np.asarray(
        Image.fromarray(heat.astype(np.float32)).resize(picture.shape[1::-1], Image.Resampling.NEAREST)
    )
    mixed = grey * (1 - 0.75 * strength[..., None]) + 0.75 * strength[..., None] * np.array(AMBER)
    return Image.fromarray(mixed.astype(np.uint8))


def draw_levels(encoder: Encoder, frames: Frames, text: str, chosen: Sequence[str]) -> Image.Image:
    """Draw the similarities of a sentence with a video and its frames, and of words with patches."""
    pixels = frames.pixels
    (video,) = encoder.encode_frames([frames], tokens=True)
    (query,) = encoder.encode_text([text])
    by_frame, words = video.frames @ query.sentence, compare_words(encoder, video, chosen)
    low, high = by_frame.min() - 0.1, by_frame.max() + 0.02
    height = 3 * LINE + 2 * GAP + 70 + SIDE + 50 + len(chosen) * (SIDE + 40)
    note = f'The sentence with the video, the sentence with each frame, words with patches: "{text}"'
    sheet, pen = start_sheet(height, "UCoFiA: three levels", note)
    top, step = 3 * LINE + GAP, SIDE + GAP
    write(pen, (GAP, top), "1  sentence and video")
    whole = float(video.video @ query.sentence)
    draw_bar(pen, (GAP + 170, top + 3, 5 * step - 60), (whole - low) / (high - low), f"{whole:.2f}")
    top += LINE + GAP
    write(pen, (GAP, top), "2  sentence and frames")
    for index, picture in enumerate(pixels):
        left = GAP + index * step
        sheet.paste(Image.fromarray(picture).resize((SIDE, SIDE)), (left, top + LINE))
        draw_bar(
            pen,
            (left, top + LINE + SIDE + 6, SIDE - 40),
            (by_frame[index] - low) / (high - low),
            f"{by_frame[index]:.2f}",
        )
    top += LINE + SIDE + 50
    for word, heat in zip(chosen, words, strict=True):
        write(pen, (GAP, top), f'3  the word "{word}" and patches')
        for index, picture in enumerate(pixels):
            sheet.paste(tint_patches(picture, heat[index]).resize((SIDE, SIDE)), (GAP + index * step, top + LINE))
        top += SIDE + 40
    return sheet


def compare_words(
    encoder: Encoder, video: SegmentEmbedding, chosen: Sequence[str]
) -> Float[np.ndarray, "word frame row column"]:
    """Return the similarities of words with the patches of each frame, from 0 to 1 for each word."""
    assert video.tokens is not None
    words = np.stack([each.words[-1] for each in encoder.encode_text(chosen)])
    num_frames = len(video.frames)
    side = round((len(video.tokens) / num_frames) ** 0.5)
    tokens = rearrange(video.tokens, "(f r c) d -> f r c d", f=num_frames, r=side)
    similarity = np.einsum("wd,frcd->wfrc", words, tokens)
    low, high = (reduce(similarity, "w f r c -> w 1 1 1", each) for each in ("min", "max"))
    return np.asarray((similarity - low) / (high - low))


def draw_sinkhorn(seed: int = 0) -> Image.Image:
    """Draw scores of texts for clips, one of which is near all, and those after the correction."""
    rng = np.random.default_rng(seed)
    texts = functional.normalize(torch.from_numpy(rng.standard_normal((NUM_CLIPS, DIM)) + 0.7), dim=1)
    clips = texts + torch.from_numpy(rng.standard_normal((NUM_CLIPS, DIM))) * 0.25
    clips[HUB] = texts.mean(dim=0)
    scores = texts @ functional.normalize(clips, dim=1).T
    corrected = scores + sinkhorn(scores, temperature=TEMPERATURE, num_iterations=100).column_potentials
    sheet, pen = start_sheet(
        3 * LINE + 2 * GAP + (NUM_CLIPS + 2) * CELL,
        "SK-norm: a clip that matches every query is lowered",
        f"Rows are texts, columns clips; an amber frame is the first result. Left: before, {count_right(scores)} of "
        f"{NUM_CLIPS} right. Right: after, {count_right(corrected)}.",
    )
    for offset, matrix in ((0, scores), (WIDTH // 2, corrected)):
        left, top = offset + 76, 3 * LINE + GAP
        draw_matrix(pen, (left, top), matrix.numpy())
        for index in range(NUM_CLIPS):
            write(pen, (offset + GAP, top + (index + 1) * CELL + 8), f"text {index + 1}")
            write(pen, (left + index * CELL + 2, top + 20), "hub" if index == HUB else f"clip {index + 1}")
    return sheet


def count_right(scores: Float[torch.Tensor, "text video"]) -> int:
    """Return for how many texts their own clip comes first."""
    return int((scores.argmax(dim=1) == torch.arange(len(scores))).sum())


def draw_matrix(pen: Pen, at: tuple[int, int], scores: Float[np.ndarray, "text video"]) -> None:
    """Draw scores as cells, the bluer the higher, and below them how often each clip comes first."""
    best, (low, high) = scores.argmax(axis=1), (scores.min(), scores.max())
    for row, column in np.ndindex(scores.shape):
        left, top = at[0] + column * CELL, at[1] + (row + 1) * CELL
        share = float((scores[row, column] - low) / (high - low))
        colour = tuple(round(EMPTY[part] + (BLUE[part] - EMPTY[part]) * share) for part in range(3))
        box = (left, top, left + CELL - 4, top + CELL - 4)
        pen.rectangle(box, colour, AMBER if best[row] == column else None, 3)
    for column in range(scores.shape[1]):
        write(pen, (at[0] + column * CELL + 4, at[1] + (len(scores) + 1) * CELL + 4), f"{(best == column).sum()}x")


def draw_head() -> Image.Image:
    """Draw a film, its event, and the points of the pyramid that learn to predict it."""
    (film,) = draw_films("train", 1, seed=3, fps=1)
    pixels, starts = render(film, 64), np.cumsum([0, *(shot.num_frames for shot in film.shots)]).tolist()
    index = max((i for i, shot in enumerate(film.shots) if shot.objects), key=lambda i: film.shots[i].num_frames)
    span, num_frames = (float(starts[index]), float(starts[index + 1])), len(pixels)
    points = make_points(num_frames, STRIDES)
    spans = torch.tensor([[span]])
    targets = find_targets(points, spans, torch.ones(1, 1, dtype=torch.bool), torch.tensor([num_frames]), fps=1.0)
    row, left, top = 34, 140, 3 * LINE + GAP + 64
    note = "Each point says how likely a moment holds it (amber: here it does), and how far start and end are."
    sheet, pen = start_sheet(top + (len(STRIDES) + 1) * row + GAP, "The head: a pyramid of time scales", note)
    scale = (WIDTH - left - GAP) / num_frames
    for number in range(0, num_frames, max(1, round(52 / scale))):
        sheet.paste(Image.fromarray(pixels[number]).resize((48, 48)), (round(left + number * scale), 3 * LINE + GAP))
    pen.rectangle((left + span[0] * scale, top, left + span[1] * scale, top + 12), AMBER)
    write(pen, (GAP, top - 3), "the moment")
    for level, stride in enumerate(STRIDES):
        y = top + (level + 1) * row
        write(pen, (GAP, y - 3), "every frame" if stride == 1 else f"every {stride} frames")
        draw_points(pen, (left, y), scale, points, targets.positive[0], targets.distances[0], stride)
    return sheet


def draw_points(
    pen: Pen,
    at: tuple[float, float],
    scale: float,
    points: Float[torch.Tensor, "point 4"],
    positive: torch.Tensor,
    distances: Float[torch.Tensor, "point 2"],
    stride: int,
) -> None:
    """Draw the points of a level; from each positive one, a line to the start and end that it learns."""
    left, y = at
    for point, is_positive, (before, after) in zip(points.tolist(), positive.tolist(), distances.tolist(), strict=True):
        if point[3] != stride:
            continue
        x = left + point[0] * scale
        if is_positive:
            pen.line((x - before * stride * scale, y + 5, x + after * stride * scale, y + 5), AMBER, 2)
    for point, is_positive in zip(points.tolist(), positive.tolist(), strict=True):
        if point[3] == stride:
            x, radius = left + point[0] * scale, 5 if is_positive else 2
            pen.ellipse((x - radius, y + 5 - radius, x + radius, y + 5 + radius), AMBER if is_positive else FAINT)


def main() -> None:
    """Read the command line, write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--query", default="a rabbit")
    parser.add_argument("--words", nargs="+", default=["rabbit", "grass"])
    given = parser.parse_args()
    encoder = load_encoder(STARTER)
    indices = segment_centre(probe(given.video).num_frames, NUM_FRAMES)
    frames = read_frames(given.video, indices=indices, resize=encoder.resize)
    draw_levels(encoder, frames, given.query, given.words).save(given.folder / "levels.jpg", quality=85)
    for name, sheet in (("sinkhorn", draw_sinkhorn()), ("head", draw_head())):
        sheet.quantize(64).save(given.folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
