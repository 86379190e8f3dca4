"""Make small weights that the package ships, from sentences beside this script.

    python tools/build_weights.py starter [OUT]      # vidret/encode/families/starter_classes.safetensors
    python tools/build_weights.py intent [OUT]       # vidret/search/query/intent.safetensors

``starter`` trains the vector that each ImageNet class adds to a frame on sentences and on drawn frames, so that no
picture is needed. Each line of ``starter_captions.jsonl`` has sentences about a video (``texts``) and the classes that
its frames show or resemble (``classes``, as ImageNet numbers them, likeliest first): eight sentences for each class by
itself, and captions of many subjects with the classes that they would activate. Frames are drawn in the classifier's
feature space. Its last batch normalisation says how features vary over the training set, and the features of a class
lie in the direction of its row of weights. A frame of several classes is the sum of their directions, of falling
lengths, and noise; its logits mix the class vectors as the encoder mixes them. A sentence has to be nearer to its own
frame than to the others of a batch, and the frame to its sentence. Training begins with the mean of a class's eight
sentences and of three templates with its name and definition. The mean of several trainings is kept. All takes three
minutes on two cores. References: Pratt et al. 2023, "What does a platypus look like?", for sentences about classes;
Radford et al. 2021, "CLIP", for the loss.

``intent`` fits what the wording of a query asks for: a logistic regression of MiniLM's sentence vectors to
``intent_examples.jsonl`` (``source``, ``query``), in which each source counts alike. It prints how often the right
source is the most likely one, in ten-fold cross-validation.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from harness import make_parser, percent, print_rows, read_rows
from safetensors.torch import save_file
from scipy.optimize import minimize
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor
from torch.nn import functional

from vidret.encode.families.efficientnet import load_weights, make_standardiser, mix_classes, read_feature_moments
from vidret.encode.families.starter import CLASS_VECTORS, CLASSIFIER
from vidret.encode.sentences import find_weights, load_sentence_encoder
from vidret.search.query.planning import CLASSES, WEIGHTS

CAPTIONS, EXAMPLES = (Path(__file__).with_name(name) for name in ("starter_captions.jsonl", "intent_examples.jsonl"))
TEMPLATES = ("a photo of a {name}", "a video of a {name}", "a video of a scene with a {name}, {definition}")
NUM_CLASSES = 1000
TRAININGS, STEPS, BATCH = 4, 300, 512
RATE = 1.5e-3  # of Adam; falls to zero linearly
TEMPERATURE = 0.05
CAPTION_SHARE = 0.4  # of a batch; the others are sentences for one class
# Deviations of a logit over the training set: the mean logit of a frame's first class. Each further class has a factor.
PEAK, DECAY = 5.0, 0.8
JITTER = (0.4, 1.2)  # the lengths of a frame's directions vary by these factors
PENALTY = 0.003  # on the squared weights of intents; with 0.001 and 0.01, 1 % more and less are read right
FOLDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Sentences:
    """Sentence vectors (text, dim), the line of each, and how much each line shows each class, (line, class)."""

    vectors: Tensor
    lines: np.ndarray
    weights: Tensor
    is_caption: np.ndarray  # (text)

    @classmethod
    def read(cls) -> "Sentences":
        """Read the sentences and encode them."""
        rows = read_rows(CAPTIONS)
        weights = torch.zeros(len(rows), NUM_CLASSES)
        for line, row in enumerate(rows):
            for rank, class_index in enumerate(row["classes"]):
                weights[line, class_index] = DECAY**rank
        lines = np.repeat(np.arange(len(rows)), [len(row["texts"]) for row in rows])
        is_caption = np.array([len(row["classes"]) > 1 for row in rows])[lines]
        return cls(embed([text for row in rows for text in row["texts"]]), lines, weights, is_caption)

    def begin(self) -> Tensor:
        """Return the class vectors before training, with open_clip's names and WordNet's definitions from timm."""
        descriptions = ImageNetInfo("imagenet-1k").label_descriptions(detailed=True)
        definitions = [text.split(":", 1)[1].strip() for text in descriptions]
        classes = list(zip(open_clip.IMAGENET_CLASSNAMES, definitions, strict=True))
        texts = [template.format(name=name, definition=text) for template in TEMPLATES for name, text in classes]
        templates = embed(texts).reshape(len(TEMPLATES), NUM_CLASSES, -1).mean(0)
        class_vectors = self.vectors[~self.is_caption].reshape(NUM_CLASSES, -1, self.vectors.shape[1]).mean(1)
        return (templates + class_vectors) / 2


def embed(texts: list[str]) -> Tensor:
    """Return unit vectors (text, dim)."""
    return torch.from_numpy(load_sentence_encoder().encode(texts)).float()


def read_spread() -> Tensor:
    """Return how a standardised logit depends on each standardised feature: (class, feature), rows of unit length."""
    weights = load_weights(find_weights(CLASSIFIER))
    _, variance = read_feature_moments(weights)
    return (make_standardiser(weights).weight * variance.sqrt()).float().detach()


def draw_frames(weights: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the standardised logits (frame, class) of frames that show classes by weights (frame, class)."""
    low, high = JITTER
    lengths = PEAK * weights * (low + (high - low) * torch.rand(weights.shape, generator=generator))
    noise = torch.randn(len(weights), spread.shape[1], generator=generator)
    return (lengths @ spread + noise) @ spread.T


def train(sentences: Sentences, start: Tensor, spread: Tensor, seed: int) -> Tensor:
    """Return class vectors after one training."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    classes = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([classes])
    captions, others = np.flatnonzero(sentences.is_caption), np.flatnonzero(~sentences.is_caption)
    num_captions, targets, is_other = (
        int(CAPTION_SHARE * BATCH),
        torch.arange(BATCH),
        ~torch.eye(BATCH, dtype=torch.bool),
    )
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        drawn = (rng.choice(captions, num_captions, False), rng.choice(others, BATCH - num_captions, False))
        batch = np.concatenate(drawn)
        lines = torch.from_numpy(sentences.lines[batch])
        centre = classes.mean(0)
        texts = functional.normalize(sentences.vectors[batch] - centre, dim=-1)
        frames = mix_classes(draw_frames(sentences.weights[lines], spread, generator), classes - centre)
        logits = texts @ frames.T / TEMPERATURE
        logits = logits.masked_fill((lines[:, None] == lines) & is_other, -torch.inf)  # sentences of one line agree
        loss = functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    print(f"training {seed + 1} of {TRAININGS}: loss {float(loss.detach()) / 2:.2f}")
    return classes.detach()


def build_starter() -> dict[str, Tensor]:
    """Train the class vectors."""
    sentences, spread = Sentences.read(), read_spread()
    start = sentences.begin()
    return {"classes": torch.stack([train(sentences, start, spread, seed) for seed in range(TRAININGS)]).mean(0)}


# Intents


def read_examples() -> tuple[np.ndarray, np.ndarray]:
    """Return the sentence vectors of the examples, (example, dim), and their classes."""
    rows = read_rows(EXAMPLES)
    vectors = load_sentence_encoder().encode([row["query"] for row in rows])
    return vectors.astype(np.float64), np.array([CLASSES.index(row["source"]) for row in rows])


def fit_intent(vectors: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights, (class, dim), and offsets of the most likely model, in which each class counts alike."""
    counts, truth = (1 / np.bincount(classes))[classes], np.eye(len(CLASSES))[classes]

    def lose(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        table = parameters.reshape(len(CLASSES), -1)
        logits = vectors @ table[:, :-1].T + table[:, -1]
        logs = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
        loss = -float(counts @ (logs * truth).sum(1)) + PENALTY * float((table[:, :-1] ** 2).sum())
        errors = (np.exp(logs) - truth) * counts[:, None]
        slopes = np.concatenate([errors.T @ vectors + 2 * PENALTY * table[:, :-1], errors.sum(0)[:, None]], axis=1)
        return loss, slopes.ravel()

    size = len(CLASSES) * (vectors.shape[1] + 1)
    table = minimize(lose, np.zeros(size), jac=True, method="L-BFGS-B").x.reshape(len(CLASSES), -1)
    return table[:, :-1], table[:, -1]


def build_intent() -> dict[str, Tensor]:
    """Fit the classifier of intents, and print what each source is read as by models that were fitted to others."""
    vectors, classes = read_examples()
    folds, guesses = np.random.default_rng(0).permutation(len(classes)) % FOLDS, np.zeros_like(classes)
    for fold in range(FOLDS):
        weights, offsets = fit_intent(vectors[folds != fold], classes[folds != fold])
        guesses[folds == fold] = (vectors[folds == fold] @ weights.T + offsets).argmax(1)
    rows = [
        (
            source,
            (classes == class_index).sum(),
            *(percent(guesses[classes == class_index] == other) for other in range(len(CLASSES))),
        )
        for class_index, source in enumerate(CLASSES)
    ]
    print_rows(("asks for", "examples", *(f"read as {source}" for source in CLASSES)), rows)
    weights, offsets = fit_intent(vectors, classes)
    return {"weights": torch.from_numpy(weights), "offsets": torch.from_numpy(offsets)}


def main() -> None:
    """Build what is named, and write it."""
    kinds = {"starter": (build_starter, CLASS_VECTORS), "intent": (build_intent, WEIGHTS)}
    parser = make_parser(__doc__)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("out", type=Path, nargs="?")
    given = parser.parse_args()
    build, shipped = kinds[given.kind]
    out = given.out or shipped
    save_file({name: tensor.half() for name, tensor in build().items()}, out)
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
