"""Train a linear classifier on stored vectors, without decoding a video: python examples/train_classifier.py INDEX.

The class of a video is the folder that it is in. Training a grounding head or a model is vidret train.
"""

import sys
from pathlib import Path

import numpy as np

from vidret import Engine


def main(index: str) -> None:
    """Print the accuracy on every third video, which the classifier has not seen."""
    with Engine.open(index) as engine:
        table = engine.embeddings("frame")
    classes = sorted({Path(path).parent.name for path in table.paths})
    labels = np.array([classes.index(Path(path).parent.name) for path in table.paths])
    video_indices = np.unique(table.videos, return_inverse=True)[1]
    held_out = video_indices % 3 == 2
    inputs, targets = table.vectors[~held_out], np.eye(len(classes))[labels[~held_out]]
    weights = np.linalg.solve(inputs.T @ inputs + 0.1 * np.eye(inputs.shape[1]), inputs.T @ targets)
    predicted = (table.vectors[held_out] @ weights).argmax(1)
    print(f"{len(classes)} classes, {(predicted == labels[held_out]).mean():.1%} of {held_out.sum()} frames right")


if __name__ == "__main__":
    main(*sys.argv[1:])
