"""Make vidret/search/query/intent.safetensors: what the wording of a query asks for, from examples.

    python tools/build_intent.py [OUT]

Fits a logistic regression of MiniLM's sentence vectors to ``intent_examples.jsonl`` (``source``, ``query``), in which
each source counts alike. Prints how often the right source is the most likely one, in ten-fold cross-validation.
"""

from pathlib import Path

import numpy as np
from harness import make_parser, percent, print_rows, read_rows
from safetensors.numpy import save_file
from scipy.optimize import minimize

from vidret.encode.sentences import load_sentence_encoder
from vidret.search.query.planning import CLASSES, WEIGHTS

EXAMPLES = Path(__file__).with_name("intent_examples.jsonl")
PENALTY = 0.003  # on the squared weights; with 0.001 and 0.01, 1 % more and less are read right
FOLDS = 10


def read_examples() -> tuple[np.ndarray, np.ndarray]:
    """Return the sentence vectors of the examples, (example, dim), and their classes."""
    rows = read_rows(EXAMPLES)
    vectors = load_sentence_encoder().encode([row["query"] for row in rows])
    return vectors.astype(np.float64), np.array([CLASSES.index(row["source"]) for row in rows])


def fit(vectors: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights, (class, dim), and offsets of the most likely model, in which each class counts alike."""
    counts = (1 / np.bincount(classes))[classes]
    truth = np.eye(len(CLASSES))[classes]

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


def cross_validate(vectors: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the most likely class of each example, by models that were fitted to others."""
    folds = np.random.default_rng(0).permutation(len(classes)) % FOLDS
    guesses = np.zeros_like(classes)
    for fold in range(FOLDS):
        weights, offsets = fit(vectors[folds != fold], classes[folds != fold])
        guesses[folds == fold] = (vectors[folds == fold] @ weights.T + offsets).argmax(1)
    return guesses


def main() -> None:
    """Write the weights, and print how good such a model is."""
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=WEIGHTS)
    out = parser.parse_args().out
    vectors, classes = read_examples()
    weights, offsets = fit(vectors, classes)
    save_file({"weights": weights.astype(np.float16), "offsets": offsets.astype(np.float16)}, out)
    guesses = cross_validate(vectors, classes)
    rows = [
        (source, str((classes == own).sum()), *(f"{percent(guesses[classes == own] == other)}" for other in range(3)))
        for own, source in enumerate(CLASSES)
    ]
    print_rows(("asks for", "examples", *(f"read as {source}" for source in CLASSES)), rows)
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
