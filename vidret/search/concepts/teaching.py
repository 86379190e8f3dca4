"""Teaching a concept or a sound: read its examples, weigh them against its text, and store both in the index."""

import contextlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from vidret.channels.sounds.reading import KIND, SoundReader
from vidret.channels.speech import SAMPLE_RATE
from vidret.encode.encoder import Encoder
from vidret.errors import DecodeError, OptionError, StoreError, VidretError, check_list
from vidret.search.concepts.encoder import Composer, Counterexamples, Examples, VectorSample, find_direction
from vidret.search.concepts.storage import TaughtConcept, load_concept, save_concept, stack_vectors
from vidret.search.query.marks import check_concept_name
from vidret.search.query.planning import encode_image
from vidret.store.lookup import look_up_video
from vidret.store.sounds import SoundStore
from vidret.store.store import Store
from vidret.text import format_time, is_url, strip_query
from vidret.types import Concept, ConceptExample, ExampleLike, Vector, as_example
from vidret.video.identity import fingerprint
from vidret.video.images import read_image_at
from vidret.video.scan import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)
# The weights of the examples to try. The expected weight grows with their number: n / (n + 3).
SHARES = np.linspace(0, 1, 9)
HALF = 3.0  # examples that count as much as the text
TRUST = 4.0  # in the expected share: nats of contradiction by held-out examples that move it by 1
MAX_PIECES = 6  # of 10 s that are read of a clip with a sound
HALF_FRAME_S = 0.5  # half the distance of two frames: the greatest distance of a frame from its stretch


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
    """Teach a concept and store it in the index; see ``Engine.teach``."""
    name = check_concept_name(name)
    if replace_old and add:
        raise OptionError("a concept must be replaced or added to, got both")
    check_list("yes", yes)
    check_list("no", no)
    old = load_concept(store, name)
    if old is not None and add and old.heard is not None:
        raise VidretError(f"@{name} is a sound: add sounds to it (--sound), or replace it (--replace)")
    if old is not None and not (replace_old or add):
        raise VidretError(f"@{name} is taught already: to teach it again, replace it (--replace), or add to it (--add)")
    meaning = old.concept.text if text is None and old is not None and add else text or re.sub("[_-]", " ", name)
    if not meaning.strip():
        raise OptionError(f"text must contain a word, got {text!r}")
    shown, hidden = (read_examples(store, encoder, examples) for examples in (yes, no))
    if old is not None and add:
        new = [*shown.examples, *hidden.examples]
        shown = _keep_others(store, old.concept.yes, old.yes, new).join(shown)
        hidden = _keep_others(store, old.concept.no, old.no, new).join(hidden)
    if not shown.examples:
        raise VidretError(f"yes must hold an example of {name}, got none")
    sample = composer.sample
    example_video_ids = np.array(sorted(shown.video_ids | hidden.video_ids), np.int64)
    background = sample.vectors[~np.isin(sample.owners, example_video_ids)]
    vector = encoder.encode_text([meaning.strip()])[0].sentence
    share = choose_share(vector, shown.vectors, hidden.vectors, sample, background)
    concept = Concept(name=name, text=meaning.strip(), share=round(share, 4), yes=shown.examples, no=hidden.examples)
    taught = TaughtConcept(concept=concept, yes=shown.vectors, no=hidden.vectors)
    _save(store, taught, old, may_replace=replace_old)
    return concept


def _save(store: Store, taught: TaughtConcept, old: TaughtConcept | None, *, may_replace: bool) -> None:
    """Store a concept, unless its index has changed since ``old`` was read and ``may_replace`` is False."""
    name = taught.concept.name
    with Store.open(store.path, write=True) as writer:
        now = load_concept(writer, name)
        if not may_replace and (None if now is None else now.concept) != (None if old is None else old.concept):
            raise VidretError(f"@{name}: another process has just taught it; try again")
        save_concept(writer, taught)


def choose_share(
    text: Vector, yes: Examples, no: Counterexamples, sample: VectorSample, background: Float[np.ndarray, "segment dim"]
) -> float:
    """Return the weight of the examples: the expected one, corrected by how well others find held-out examples.

    Each example is held out in turn and ranked among the background and the counterexamples. The result is the mean of
    ``SHARES``, weighted by the product of the reciprocal ranks and by how close they are to the expected share.
    """
    prior = len(yes) / (len(yes) + HALF)
    log_weights = -TRUST * np.abs(prior - SHARES)
    if len(yes) < 2:
        return prior
    others = np.concatenate([background, no])
    by_text = sample.standardise(text)
    for index, held_out in enumerate(yes):
        by_examples = sample.standardise(find_direction(np.delete(yes, index, axis=0), no, sample))
        held_out_scores, other_scores = (
            (1 - SHARES) * (row @ by_text)[..., None] + SHARES * (row @ by_examples)[..., None]
            for row in (held_out, others)
        )
        log_weights -= np.log(1 + (other_scores > held_out_scores).sum(axis=0))
    weights = np.exp(log_weights - log_weights.max())
    return float(weights @ SHARES / weights.sum())


def _keep_others(
    store: Store,
    examples: Sequence[ConceptExample],
    vectors: Float32[np.ndarray, "example dim"],
    new: Sequence[ConceptExample],
) -> ReadExamples:
    """Return the old examples that are not among the new ones, which may have changed sides.

    Images given as arrays may share a name, which is not an absolute path.
    """
    is_named = [
        example.start is not None or is_url(example.path) or Path(example.path).is_absolute() for example in new
    ]
    named = {
        (example.path, example.start, example.end) for example, is_kept in zip(new, is_named, strict=True) if is_kept
    }
    rows = [row for row, old in enumerate(examples) if (old.path, old.start, old.end) not in named]
    video_ids = set()
    for row in rows:
        try:
            video_ids.add(look_up_video(store, examples[row].path))
        except StoreError:  # an image, or a video that has been removed
            continue
    return ReadExamples(
        examples=tuple(examples[row] for row in rows), vectors=vectors[rows], video_ids=frozenset(video_ids)
    )


def read_examples(store: Store, encoder: Encoder, examples: Sequence[ExampleLike]) -> ReadExamples:
    """Return examples with their vectors: of images as the encoder sees them, of videos as the index has them.

    A file that is neither an image nor a video of the index is left out with a warning. Files that are named twice, and
    copies of one video, count once.

    Raises:
        VidretError: None is an image or a video of the index, one does not exist, or no frame of a stretch is stored.
    """
    kept: list[ConceptExample] = []
    vectors: list[Vector] = []
    video_ids: set[int] = set()
    named: set[tuple[str | int, float | None, float | None]] = set()  # files, or the ids of videos, with a stretch
    unread: list[DecodeError] = []
    for example in map(as_example, examples):
        found = _find_video(store, example) if example.image is None else None
        example = example if found is None else found[1]
        name = (example.path if found is None else found[0], example.start, example.end)
        if example.image is None and name in named:
            continue
        named.add(name)
        if found is not None:
            vectors.append(_average_frames(store, found[0], example))
            video_ids.add(found[0])
        else:
            try:
                vectors.append(_encode_picture(example, encoder))
            except DecodeError as error:
                unread.append(error)
                continue
        kept.append(replace(example, image=None))
    if unread and not kept:
        raise unread[0]
    for reason in unread:
        logger.warning("left out: %s", reason)
    return ReadExamples(
        examples=tuple(kept), vectors=stack_vectors(vectors, encoder.dim), video_ids=frozenset(video_ids)
    )


def _find_video(store: Store, example: ConceptExample) -> tuple[int, ConceptExample] | None:
    """Return the id of the video that an example is a stretch of, and the example; None for an image.

    An example in a copy of a video, as people put into a folder of examples, becomes one in the video.
    """
    try:
        return look_up_video(store, example.path), example
    except StoreError as error:
        path = Path(example.path)
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            with contextlib.suppress(DecodeError):  # of an empty file
                contents = store.find_contents([fingerprint(path)])
                for video in store.videos.find(ids=[*contents.values()]):
                    return video.id, replace(example, path=video.paths[0])
        if example.start is not None or not path.is_file():
            raise VidretError(f"{error}; an example must be an image or a video of the index") from error
        return None


def _check_stretch(example: ConceptExample) -> None:
    if example.start is not None and example.end is not None and not example.start <= example.end:
        span = f"{example.start:g} to {example.end:g} s"
        raise VidretError(f"{strip_query(example.path)}: a span must not end before it starts, got {span}")


def _average_frames(store: Store, video_id: int, example: ConceptExample) -> Vector:
    """Return the mean of the frame vectors of a stretch of a video, scaled to unit length."""
    _check_stretch(example)
    stored = store.features.read(store.segments.ids_of_video(video_id), tokens=False)
    frames = np.concatenate([np.empty((0, store.dim), np.float32), *stored.frames]).astype(np.float64)
    times = np.concatenate([np.empty(0), *stored.times])
    start = -np.inf if example.start is None else example.start - HALF_FRAME_S
    end = np.inf if example.end is None else example.end + HALF_FRAME_S
    inside = frames[(times >= start) & (times <= end)]
    if not len(inside):
        until = "" if example.end is None else f" to {example.end:g}"
        span = "" if example.start is None else f" from {example.start:g}{until} s"
        raise VidretError(f"{strip_query(example.path)}: the index has no frame{span}")
    return _scale(inside.mean(axis=0))


def _encode_picture(example: ConceptExample, encoder: Encoder) -> Vector:
    if example.image is not None:
        if not isinstance(example.image, np.ndarray):
            raise VidretError(f"an example must be a path, an image or a result, got {example.image!r:.60}")
        return _scale(encode_image(example.image, encoder).sentence)
    try:
        image = read_image_at(example.path)
    except DecodeError as error:
        is_video = Path(example.path).suffix.lower() in VIDEO_SUFFIXES
        reason = "index this video first" if is_video else error.reason
        raise DecodeError(example.path, f"must be an image or a video of the index: {reason}") from error
    return _scale(encode_image(image, encoder).sentence)


def _scale(vector: Vector) -> Vector:
    """Return a vector of unit length; 0 stays 0."""
    return (vector / (float(np.linalg.norm(vector)) or 1.0)).astype(np.float32)


# Sounds


def teach_sound(
    store: Store, name: str, examples: Sequence[ConceptExample], *, replace_old: bool, add: bool
) -> Concept:
    """Teach a sound and store it in the index; see ``Engine.teach_sound``."""
    name = check_concept_name(name)
    if replace_old and add:
        raise OptionError("a concept must be replaced or added to, got both")
    old = load_concept(store, name)
    if old is not None and not replace_old and not (add and old.heard is not None):
        raise VidretError(f"@{name} is taught already: replace it (--replace), or add sounds to a sound (--add)")
    if not examples:
        raise VidretError(f"sounds must hold an example of {name}, got none")
    heard = np.stack([_read_example(store, example) for example in examples])
    if add and old is not None and old.heard is not None:
        examples, heard = [*old.concept.yes, *examples], np.concatenate([old.heard, heard])
    concept = Concept(name=name, text=re.sub("[_-]", " ", name), share=0.0, yes=tuple(examples))
    nothing = stack_vectors([], store.dim)
    _save(store, TaughtConcept(concept=concept, yes=nothing, no=nothing, heard=heard), old, may_replace=replace_old)
    return concept


def _read_example(store: Store, example: ConceptExample) -> Float32[np.ndarray, " dim"]:
    """Return the mean vector of a clip, or of a stretch of an indexed video."""
    vectors = _read_clip(example.path) if example.start is None else _read_stretch(store, example)
    if not len(vectors):
        where = "" if example.start is None else f" at {format_time(example.start)}"
        raise VidretError(f"{example.path}: must hold a sound{where}, got none")
    mean = vectors.astype(np.float32).mean(axis=0)
    unit: Float32[np.ndarray, " dim"] = mean / max(float(np.linalg.norm(mean)), 1e-9)
    return unit


def _read_clip(path: str) -> Float32[np.ndarray, "window dim"]:
    from vidret.video.audio import read_audio

    reader = SoundReader()
    try:
        for _, samples in islice(read_audio(path, SAMPLE_RATE), MAX_PIECES):
            reader.read(samples)
    except DecodeError as error:
        raise VidretError(f"{path}: must be a file with sound: {error.reason}") from error
    return reader.finish_windows().vectors.astype(np.float32)


def _read_stretch(store: Store, example: ConceptExample) -> Float32[np.ndarray, "window dim"]:
    _check_stretch(example)
    video_id = look_up_video(store, example.path)
    content = store.videos.get(video_id).fingerprint
    with SoundStore.open(store.path) as sounds:
        windows = sounds.read(KIND.model, [content]).get(content)
    if windows is None:
        advice = "run vidret index --sounds on, unless it has no audio track"
        raise StoreError(f"{example.path}: no sounds of this video are stored: {advice}")
    start_s = example.start or 0.0
    end_s = start_s if example.end is None else example.end
    inside = (windows.ends > start_s) & (windows.starts <= end_s)
    if start_s == end_s and inside.any():  # the window in whose middle the moment is
        middles = (windows.starts + windows.ends) / 2
        inside = np.arange(len(windows)) == np.abs(middles - start_s).argmin()
    return windows.vectors[inside].astype(np.float32)
