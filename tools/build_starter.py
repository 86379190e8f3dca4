"""Make vidret/encode/families/starter_classes.safetensors: the vector that each ImageNet class adds to a frame.

    python tools/build_starter.py [OUT]

Trains the vectors on sentences and on drawn frames, so that no picture is needed. Each line of
``starter_captions.jsonl`` has sentences about a video (``texts``) and the classes that its frames show or resemble
(``classes``, as ImageNet numbers them, likeliest first). Each class has eight sentences of its own: two on the thing
itself, two on scenes that it is usual in, two on what looks like it, two short queries. The other lines are captions of
many subjects with the classes that they would activate.

Frames are drawn in the classifier's feature space. Its last batch normalisation says how features vary over the
training set, and the features of a class lie in the direction of its row of weights. A frame of several classes is the
sum of their directions, of falling lengths, and noise; its logits mix the class vectors as the encoder mixes them. A
sentence has to be nearer to its own frame than to the others of a batch, and the frame to its sentence.

Training begins with the mean of a class's eight sentences and of three templates with its name and definition. The mean
of several trainings is kept. All takes three minutes on two cores.

References: Pratt et al. 2023, "What does a platypus look like?", for sentences about classes; Radford et al. 2021,
"CLIP", for the loss.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from harness import make_parser, read_rows
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor
from torch.nn import functional

from vidret.encode.families.efficientnet import load_weights, make_standardiser, mix_classes, read_feature_moments
from vidret.encode.families.starter import CLASS_VECTORS, CLASSIFIER
from vidret.encode.sentences import find_weights, load_sentence_encoder

CAPTIONS = Path(__file__).with_name("starter_captions.jsonl")
TEMPLATES = ("a photo of a {name}", "a video of a {name}", "a video of a scene with a {name}, {definition}")
NUM_CLASSES = 1000
TRAININGS, STEPS, BATCH = 4, 300, 512
RATE = 1.5e-3  # of Adam; falls to zero linearly
TEMPERATURE = 0.05
CAPTION_SHARE = 0.4  # of a batch; the others are sentences for one class
# Deviations of a logit over the training set: the mean logit of a frame's first class. Each further class has a factor.
PEAK, DECAY = 5.0, 0.8
JITTER = (0.4, 1.2)  # the lengths of a frame's directions vary by these factors


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Sentence vectors (text, dim), the line of each, and how much each line shows each class, (line, class)."""

    vectors: Tensor
    lines: np.ndarray
    weights: Tensor
    is_caption: np.ndarray  # (text)


def embed(texts: list[str]) -> Tensor:
    """Return unit vectors (text, dim)."""
    return torch.from_numpy(load_sentence_encoder().encode(texts)).float()


def embed_templates() -> Tensor:
    """Return the mean vector of each class's templates, with open_clip's names and WordNet's definitions from timm."""
    descriptions = ImageNetInfo("imagenet-1k").label_descriptions(detailed=True)
    definitions = [text.split(":", 1)[1].strip() for text in descriptions]
    classes = list(zip(open_clip.IMAGENET_CLASSNAMES, definitions, strict=True))
    texts = [template.format(name=name, definition=text) for template in TEMPLATES for name, text in classes]
    return embed(texts).reshape(len(TEMPLATES), NUM_CLASSES, -1).mean(0)


def read_examples() -> Examples:
    """Read the sentences and encode them."""
    rows = read_rows(CAPTIONS)
    weights = torch.zeros(len(rows), NUM_CLASSES)
    for line, row in enumerate(rows):
        for rank, number in enumerate(row["classes"]):
            weights[line, number] = DECAY**rank
    lines = np.repeat(np.arange(len(rows)), [len(row["texts"]) for row in rows])
    is_caption = np.array([len(row["classes"]) > 1 for row in rows])[lines]
    return Examples(embed([text for row in rows for text in row["texts"]]), lines, weights, is_caption)


def read_spread() -> Tensor:
    """Return how a standardised logit depends on each standardised feature: (class, feature), rows of unit length."""
    weights = load_weights(find_weights(CLASSIFIER))
    _, variance = read_feature_moments(weights)
    return (make_standardiser(weights).weight * variance.sqrt()).float().detach()


def begin(examples: Examples) -> Tensor:
    """Return the class vectors before training: means of templates and of the sentences for each class."""
    own = examples.vectors[~examples.is_caption].reshape(NUM_CLASSES, -1, examples.vectors.shape[1]).mean(1)
    return (embed_templates() + own) / 2


def draw_frames(weights: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the standardised logits (frame, class) of frames that show classes by weights (frame, class)."""
    low, high = JITTER
    lengths = PEAK * weights * (low + (high - low) * torch.rand(weights.shape, generator=generator))
    noise = torch.randn(len(weights), spread.shape[1], generator=generator)
    return (lengths @ spread + noise) @ spread.T


def train(examples: Examples, start: Tensor, spread: Tensor, seed: int) -> Tensor:
    """Return class vectors after one training."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    classes = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([classes])
    captions, others = np.flatnonzero(examples.is_caption), np.flatnonzero(~examples.is_caption)
    num_captions = int(BATCH * CAPTION_SHARE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        drawn = (rng.choice(captions, num_captions, False), rng.choice(others, BATCH - num_captions, False))
        batch = np.concatenate(drawn)
        lines = torch.from_numpy(examples.lines[batch])
        centre = classes.mean(0)
        texts = functional.normalize(examples.vectors[batch] - centre, dim=-1)
        frames = mix_classes(draw_frames(examples.weights[lines], spread, generator), classes - centre)
        logits = texts @ frames.T / TEMPERATURE
        is_other = ~torch.eye(BATCH, dtype=torch.bool)
        logits = logits.masked_fill((lines[:, None] == lines) & is_other, -torch.inf)  # sentences of one line agree
        own = torch.arange(BATCH)
        loss = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    print(f"training {seed + 1} of {TRAININGS}: loss {float(loss.detach()) / 2:.2f}")
    return classes.detach()


def main() -> None:
    """Train and write the vectors."""
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=CLASS_VECTORS)
    out = parser.parse_args().out
    examples, spread = read_examples(), read_spread()
    start = begin(examples)
    trained = torch.stack([train(examples, start, spread, seed) for seed in range(TRAININGS)]).mean(0)
    save_file({"classes": trained.half()}, out)
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
