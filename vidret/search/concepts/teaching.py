"""Teaching a concept: read its examples, weigh them against its text, and store both in the index."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vidret.encode.encoder import Encoder
from vidret.errors import DecodeError, StoreError, VidretError
from vidret.search.concepts.composing import Composer
from vidret.search.concepts.storage import (
    TaughtConcept,
    choose_share,
    load_concept,
    save_concept,
    stack_vectors,
)
from vidret.search.query.mentions import check_concept_name
from vidret.search.query.planning import encode_image
from vidret.store.lookup import look_up_video
from vidret.store.store import Store
from vidret.text import strip_query
from vidret.types import Concept, ConceptExample, ExampleLike, Vector, as_example
from vidret.video.images import read_image_at
from vidret.video.scan import VIDEO_SUFFIXES

HALF_FRAME_S = 0.5  # half the distance of two frames: how far outside a stretch a frame may lie


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReadExamples:
    """Examples, the vector of each, of unit length, and the ids of the videos that they are from."""

    examples: tuple[ConceptExample, ...]
    vectors: Float32[np.ndarray, "example dim"]
    video_ids: frozenset[int]

    def join(self, other: "ReadExamples") -> "ReadExamples":
        """Return these examples and others."""
        return ReadExamples(
            examples=self.examples + other.examples,
            vectors=np.concatenate([self.vectors, other.vectors]),
            video_ids=self.video_ids | other.video_ids,
        )


def teach_concept(
    store: Store,
    encoder: Encoder,
    composer: Composer,
    name: str,
    *,
    yes: Sequence[ExampleLike],
    no: Sequence[ExampleLike],
    text: str | None,
    replace_old: bool,
    add: bool = False,
) -> Concept:
    """Teach a concept and store it in the index; see ``Engine.teach``.

    Raises:
        VidretError: There is no positive example, one cannot be read, the name is invalid or taken, or the concept is
            to be replaced and added to at once.
    """
    name = check_concept_name(name)
    if replace_old and add:
        raise VidretError("a concept must be replaced or added to, got both")
    old = load_concept(store, name)
    if old is not None and not (replace_old or add):
        raise VidretError(f"@{name} is taught already: to teach it anew, replace it (--replace), or add to it (--add)")
    meaning = old.concept.text if text is None and old is not None and add else text or re.sub("[_-]", " ", name)
    if not meaning.strip():
        raise VidretError(f"text must contain a word, got {text!r}")
    shown, hidden = (read_examples(store, encoder, each) for each in (yes, no))
    if old is not None and add:
        new = [*shown.examples, *hidden.examples]
        shown = _keep_others(store, old.concept.yes, old.yes, new).join(shown)
        hidden = _keep_others(store, old.concept.no, old.no, new).join(hidden)
    if not shown.examples:
        raise VidretError(f"yes must hold an example of {name}, got none")
    sample = composer.sample
    known = np.array(sorted(shown.video_ids | hidden.video_ids), np.int64)
    background = sample.vectors[~np.isin(sample.owners, known)]
    vector = encoder.encode_text([meaning.strip()])[0].sentence
    share = choose_share(vector, shown.vectors, hidden.vectors, sample, background)
    concept = Concept(name=name, text=meaning.strip(), share=round(share, 4), yes=shown.examples, no=hidden.examples)
    with Store.open(store.path, write=True) as writer:
        now = load_concept(writer, name)
        if not replace_old and (None if now is None else now.concept) != (None if old is None else old.concept):
            raise VidretError(f"@{name}: another process has just taught it; try again")
        save_concept(writer, TaughtConcept(concept=concept, yes=shown.vectors, no=hidden.vectors))
    return concept


def _keep_others(
    store: Store,
    examples: Sequence[ConceptExample],
    vectors: Float32[np.ndarray, "example dim"],
    new: Sequence[ConceptExample],
) -> ReadExamples:
    """Return the old examples that are not among the new ones, which may have changed sides."""
    named = {(each.path, each.start, each.end) for each in new if each.start is not None}
    rows = [row for row, each in enumerate(examples) if (each.path, each.start, each.end) not in named]
    video_ids = set()
    for row in rows:
        try:
            video_ids.add(look_up_video(store, examples[row].path))
        except StoreError:  # an image, or a video that is no longer there
            continue
    return ReadExamples(
        examples=tuple(examples[row] for row in rows), vectors=vectors[rows], video_ids=frozenset(video_ids)
    )


def read_examples(store: Store, encoder: Encoder, examples: Sequence[ExampleLike]) -> ReadExamples:
    """Return examples with their vectors: of images as the encoder sees them, of videos as the index has them.

    Raises:
        VidretError: One is neither an image nor a video of the index, or no frame of a stretch is stored.
    """
    kept: list[ConceptExample] = []
    vectors: list[Vector] = []
    video_ids: set[int] = set()
    for each in examples:
        example = as_example(each)
        if example.image is None and (video_id := _find_video(store, example)) is not None:
            vectors.append(_average_frames(store, video_id, example))
            video_ids.add(video_id)
        else:
            vectors.append(_encode_picture(example, encoder))
        kept.append(replace(example, image=None))
    return ReadExamples(
        examples=tuple(kept), vectors=stack_vectors(vectors, encoder.dim), video_ids=frozenset(video_ids)
    )


def _find_video(store: Store, example: ConceptExample) -> int | None:
    """Return the id of the video that an example is a stretch of; None for an image."""
    try:
        return look_up_video(store, example.path)
    except StoreError as error:
        if example.start is not None or not Path(example.path).is_file():
            raise VidretError(f"{error}; an example must be an image or a video of the index") from error
        return None


def _average_frames(store: Store, video_id: int, example: ConceptExample) -> Vector:
    """Return the mean of the frame vectors of a stretch of a video, scaled to unit length."""
    stored = store.features.read(store.segments.ids_of_video(video_id), tokens=False)
    frames = np.concatenate([np.empty((0, store.dim), np.float32), *stored.frames]).astype(np.float64)
    times = np.concatenate([np.empty(0), *stored.times])
    start = -np.inf if example.start is None else example.start - HALF_FRAME_S
    end = np.inf if example.end is None else example.end + HALF_FRAME_S
    inside = frames[(times >= start) & (times <= end)]
    if not len(inside):
        span = "" if example.start is None else f" from {example.start:g} to {example.end or np.inf:g} s"
        raise VidretError(f"{strip_query(example.path)}: the index has no frame{span}")
    return _scale(inside.mean(axis=0))


def _encode_picture(example: ConceptExample, encoder: Encoder) -> Vector:
    if example.image is not None:
        return _scale(encode_image(example.image, encoder).sentence)
    try:
        image = read_image_at(example.path)
    except DecodeError as error:
        is_video = Path(example.path).suffix.lower() in VIDEO_SUFFIXES
        reason = "index this video first" if is_video else error.reason
        raise VidretError(f"{example.path}: must be an image or a video of the index: {reason}") from error
    return _scale(encode_image(image, encoder).sentence)


def _scale(vector: Vector) -> Vector:
    """Return a vector of unit length; 0 stays 0."""
    unit: Vector = (vector / (float(np.linalg.norm(vector)) or 1.0)).astype(np.float32)
    return unit
