"""Who says what: timed texts with the names of those whose voices are heard meanwhile."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import TrackColumns
from vidret.types import TextSource, TimedText

SPOKEN: tuple[TextSource, ...] = ("speech", "subtitles")


def name_speakers(
    indexes: Iterable[Path], content: str, texts: Sequence[TimedText], *, unnamed: bool = False
) -> list[TimedText]:
    """Return the texts of a video with who says each, as far as one of the indexes knows the voice.

    Args:
        indexes: Folders of indexes.
        content: Fingerprint of the video.
        texts: What is said and shown in it.
        unnamed: Whether speakers who have no name are told apart as ``person-7``.
    """
    for index in indexes:
        if not IdentityStore.exists(index):
            continue
        with IdentityStore.open(index) as identities:
            voices = identities.columns(kind="voice", content=content)
            persons = identities.database.rows("SELECT id, name FROM persons")
        if len(voices.ids):
            names = {key: name or (f"person-{key}" if unnamed else "") for key, name in persons}
            return [replace(text, speaker=names.get(_find_speaker(text, voices), "")) for text in texts]
    return list(texts)


def _find_speaker(text: TimedText, voices: TrackColumns) -> int:
    """Return the person who is heard longest during a text; 0 if that is none of the persons."""
    if text.source not in SPOKEN:
        return 0
    heard_s = np.minimum(voices.ends, text.end) - np.maximum(voices.starts, text.start)
    persons, rows = np.unique(voices.persons, return_inverse=True)
    sums_s = np.bincount(rows, weights=np.maximum(heard_s, 0.0))
    return int(persons[sums_s.argmax()]) if sums_s.max() > 0 else 0
