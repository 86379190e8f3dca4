"""Teaching a sound by examples: clips of it, and moments of indexed videos."""

import re
from collections.abc import Sequence
from itertools import islice

import numpy as np
from jaxtyping import Float32

from vidret.channels.sounds.reading import KIND, SoundReader
from vidret.channels.speech import SAMPLE_RATE
from vidret.errors import DecodeError, StoreError, VidretError
from vidret.search.concepts.storage import TaughtConcept, load_concept, save_concept, stack_vectors
from vidret.search.query.mentions import check_concept_name
from vidret.store.lookup import look_up_video
from vidret.store.sounds import SoundStore
from vidret.store.store import Store
from vidret.types import Concept, ConceptExample

MAX_PIECES = 6  # of 10 s that are read of a clip


def teach_sound(
    store: Store, name: str, examples: Sequence[ConceptExample], *, replace_old: bool, add: bool
) -> Concept:
    """Teach a sound; see ``Engine.teach_sound``.

    Raises:
        VidretError: There is no example, one cannot be read or is silent, or the name is invalid or taken.
    """
    name = check_concept_name(name)
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
    with Store.open(store.path, write=True) as writer:
        save_concept(writer, TaughtConcept(concept=concept, yes=nothing, no=nothing, heard=heard))
    return concept


def _read_example(store: Store, example: ConceptExample) -> Float32[np.ndarray, " dim"]:
    """Return the mean vector of a clip, or of a stretch of an indexed video."""
    vectors = _read_clip(example.path) if example.start is None else _read_stretch(store, example)
    if not len(vectors):
        raise VidretError(f"{example.path}: must be heard, got silence")
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
    video_id = look_up_video(store, example.path)
    content = store.videos.get(video_id).fingerprint
    with SoundStore.open(store.path) as sounds:
        windows = sounds.read(KIND.model, [content]).get(content)
    if windows is None:
        raise StoreError(f"{example.path}: no sounds of this video are stored: run vidret index --sounds on")
    start_s = example.start or 0.0
    end_s = start_s if example.end is None else example.end
    inside = (windows.ends > start_s) & (windows.starts <= end_s)
    if start_s == end_s and inside.any():  # the window in whose middle the moment is
        middles = (windows.starts + windows.ends) / 2
        inside = np.arange(len(windows)) == np.abs(middles - start_s).argmin()
    return windows.vectors[inside].astype(np.float32)
