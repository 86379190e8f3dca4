"""Classification of all videos of an index by a few examples of each class.

A class is a Gaussian of video vectors plus the text of its name. The other videos of the index are unlabelled vectors,
which show how the classes vary. Each class is a direction, so it can be stored as a concept.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from vidret.align.gda import UNLABELLED, cross_validate, fit_with_unlabelled, soften
from vidret.encode.encoder import Encoder
from vidret.errors import VidretError, check_list
from vidret.search.concepts.encoder import Composer
from vidret.search.concepts.storage import (
    TaughtConcept,
    forget_concept,
    list_concepts,
    load_concept,
    save_concept,
    stack_vectors,
)
from vidret.search.concepts.teaching import ReadExamples, read_examples
from vidret.search.query.marks import check_concept_name
from vidret.store.lookup import spread_evenly
from vidret.store.store import Store
from vidret.text import MARKS
from vidret.types import Concept, ExampleLike, TaggedVideo

TEXT_SPREAD = 2.0  # standard deviation of the logits of a class's text over the videos
SAMPLE_SIZE = 1024  # videos that the classifier is fitted to, besides the examples
BLOCK = 1 << 16  # segments that are read at a time


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Classification:
    """Classes, and the log odds of each video for them.

    Attributes:
        names: Names of the classes.
        examples: Their examples.
        video_ids: Ids of the videos, ascending.
        logits: Log odds of the classes of each video, up to a constant per video.
        directions: The part of the logits' weights that comes from the examples, one row per class.
    """

    names: tuple[str, ...]
    examples: tuple[ReadExamples, ...]
    video_ids: Int64[np.ndarray, " video"]
    logits: Float64[np.ndarray, "video class_"]
    directions: Float64[np.ndarray, "class_ dim"]

    def tag(self, store: Store) -> list[TaggedVideo]:
        """Return the most probable class of each video, by class and with the most probable videos first.

        A video that is an example of one class is certainly of this class.
        """
        shown = np.stack([np.isin(self.video_ids, list(shown.video_ids)) for shown in self.examples], axis=1)
        probabilities = np.where(shown.sum(axis=1, keepdims=True) == 1, shown, soften(self.logits))
        labels, best = probabilities.argmax(axis=1), probabilities.max(axis=1)
        paths = store.files.paths_of(self.video_ids.tolist())
        tagged = []
        for row in sorted(range(len(labels)), key=lambda row: (labels[row], -best[row])):
            video_id, name = int(self.video_ids[row]), self.names[labels[row]]
            if video_paths := paths[video_id]:
                path, *copies = video_paths
                probability = float(best[row])
                tagged.append(
                    TaggedVideo(video=video_id, path=path, tag=name, probability=probability, copies=tuple(copies))
                )
        return tagged


def classify_videos(store: Store, encoder: Encoder, classes: Mapping[str, Sequence[ExampleLike]]) -> Classification:
    """Classify all videos of an index by examples of each class and its name; see ``Engine.classify``."""
    if len(classes) < 2:
        raise VidretError(f"classes must be two or more, got {', '.join(classes) or 'none'}")
    for name, class_examples in classes.items():
        check_list(f"class {name}", class_examples)
    examples = tuple(read_examples(store, encoder, class_examples) for class_examples in classes.values())
    for name, shown in zip(classes, examples, strict=True):
        if not shown.examples:
            raise VidretError(f"class {name} must have an example, got none")
    video_ids, videos = average_segments(store)
    if not len(videos):
        raise VidretError(f"{store.path}: the index must hold a video, got none")
    texts = np.stack([text.sentence for text in encoder.encode_text([make_class_text(name) for name in classes])])
    by_text = videos @ texts.T.astype(np.float64)
    spread = by_text.std(axis=0)
    scale = TEXT_SPREAD / np.where(spread > 0, spread, 1)
    shown_ids = np.array(sorted(frozenset().union(*(shown.video_ids for shown in examples))), np.int64)
    others = videos[~np.isin(video_ids, shown_ids)]
    others = others[spread_evenly(len(others), SAMPLE_SIZE)]
    vectors = np.concatenate([*(shown.vectors for shown in examples), others])
    counts = [len(shown.examples) for shown in examples]
    labels = np.repeat([*range(len(counts)), UNLABELLED], [*counts, len(others)])
    text_logits = scale * (vectors @ texts.T - by_text.mean(axis=0))
    try:
        alpha, temperature = cross_validate(vectors, labels, text_logits)
        gaussians = fit_with_unlabelled(vectors, labels, text_logits, alpha=alpha)
    except ValueError as error:
        raise VidretError(f"examples cannot tell the classes apart: {error}") from error
    return Classification(
        names=tuple(classes),
        examples=examples,
        video_ids=video_ids,
        logits=(scale * (by_text - by_text.mean(axis=0)) + gaussians.classify(videos)) / temperature,
        directions=gaussians.weight.T,
    )


def average_segments(store: Store) -> tuple[Int64[np.ndarray, " video"], Float[np.ndarray, "video dim"]]:
    """Return the ids of the videos of an index, ascending, and the mean of each one's segments, of unit length."""
    ids = store.searchable()
    owners = store.owners(ids)
    ids, owners = ids[owners >= 0], owners[owners >= 0]
    video_ids = np.unique(owners)
    sums = np.zeros((len(video_ids), store.dim))
    for start in range(0, len(ids), BLOCK):
        intact, vectors = store.features.intact_vectors(ids[start : start + BLOCK])
        rows = np.searchsorted(video_ids, owners[np.searchsorted(ids, intact)])
        np.add.at(sums, rows, vectors)
    lengths = np.linalg.norm(sums, axis=1)
    return video_ids[lengths > 0], sums[lengths > 0] / lengths[lengths > 0, None]


def make_class_text(name: str) -> str:
    """Return the text of a class: the words of its name.

    >>> make_class_text("home_videos"), make_class_text("_")
    ('home videos', '_')
    """
    return re.sub("[_-]", " ", name).strip() or name


def name_concepts(prefix: str, names: Sequence[str]) -> list[str]:
    """Return the names of the concepts under which classes are stored.

    >>> name_concepts("kind", ["Sport", "home videos"])
    ['kind-sport', 'kind-home-videos']

    Raises:
        VidretError: The prefix is not the name of a concept, or two classes would have one.
    """
    prefix = check_concept_name(prefix)
    bare = (re.sub(rf"[^\w{MARKS}-]+", "-", name).strip("-") for name in names)
    concepts = [check_concept_name(f"{prefix}-{name}") for name in bare]
    if len(set(concepts)) < len(concepts):
        raise VidretError(f"classes must have different names, got {', '.join(names)}")
    return concepts


def _is_class_of(concept: Concept, prefix: str) -> bool:
    """Return whether a concept is a class stored under this prefix, not under a longer one that begins with it."""
    expected = f"{prefix}-{concept.text}".casefold()
    return re.findall(r"[^\W_]+", expected) == re.findall(r"[^\W_]+", concept.name)


def split_class(concept: Concept) -> tuple[str, str]:
    """Return the prefix under which a class was stored, and its name there.

    >>> split_class(Concept(name="my-kind-home-videos", text="Home videos", share=0.5, yes=()))
    ('my-kind', 'Home videos')
    """
    name, ends = concept.name, (at for at, letter in enumerate(concept.name) if letter == "-")
    prefix = next((name[:at] for at in ends if _is_class_of(concept, name[:at])), name.partition("-")[0])
    prefixed = name_concepts(prefix, [concept.text])
    return prefix, concept.text if prefixed == [name] else name.removeprefix(f"{prefix}-")


def save_classes(store: Store, composer: Composer, found: Classification, prefix: str) -> None:
    """Store classes as concepts ``@prefix-class``, in place of those of an earlier classification.

    Raises:
        VidretError: A concept that was taught has one of these names, or a name is invalid.
        StoreError: Another process is writing the index.
    """
    prefix = check_concept_name(prefix)
    rows = list(zip(name_concepts(prefix, found.names), found.names, found.examples, found.directions, strict=True))
    kept = {name for name, *_ in rows}
    with Store.open(store.path, write=True) as writer:
        old = [load_concept(writer, concept.name) for concept in list_concepts(writer)]
        classes = {taught.concept.name: taught.concept for taught in old if taught and taught.direction is not None}
        for taken in (taught.concept.name for taught in old if taught and taught.concept.name in kept - classes.keys()):
            raise VidretError(f"@{taken} is taught already: forget it, or choose another name")
        for gone in classes.keys() - kept:
            if _is_class_of(classes[gone], prefix):
                forget_concept(writer, gone)
        for name, label, shown, direction in rows:
            spread = composer.sample.measure_spread(direction)
            concept = Concept(
                name=name,
                text=make_class_text(label),
                share=round(spread / (TEXT_SPREAD + spread), 4),
                yes=shown.examples,
            )
            taught = TaughtConcept(
                concept=concept,
                yes=shown.vectors,
                no=stack_vectors([], store.dim),
                direction=direction.astype(np.float32),
            )
            save_concept(writer, taught)
