"""Example queries: phrases of two words that videos of an index say or show."""

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from vidret.channels.texts.matching import STOP_STEMS
from vidret.store.texts.store import TextStore

WORD = re.compile(r"\w+")
MIN_LETTERS = 4  # of a word; shorter ones are mostly articles, names and misreadings
MAX_TRACKS = 100  # that are read


def suggest_queries(texts: Iterable[tuple[int, str]], limit: int = 4) -> list[str]:
    """Return up to ``limit`` phrases that occur in videos, those of several texts first, no two from one video.

    Args:
        texts: Pairs of the video and a text of it.
        limit: Maximum number of phrases.
    """
    videos_by_phrase: defaultdict[str, list[int]] = defaultdict(list)
    for video, text in texts:
        for part in re.split(r"[^\w\s]+", text.lower()):  # a phrase does not cross punctuation
            for pair in pairwise(WORD.findall(part)):
                if all(map(_tells, pair)):
                    videos_by_phrase[" ".join(pair)].append(video)
    chosen: list[str] = []
    used: set[int] = set()
    for phrase, videos in sorted(videos_by_phrase.items(), key=lambda item: -len(item[1])):
        if len(chosen) < limit and not used.intersection(videos):
            chosen.append(phrase)
            used.update(videos)
    return chosen


def _tells(word: str) -> bool:
    """Return whether a word says something of its own: it has letters alone, enough of them, and is not common."""
    return word.isalpha() and len(word) >= MIN_LETTERS and word not in STOP_STEMS


def suggest_from_words(store: TextStore, limit: int = 4) -> list[str]:
    """Return example queries from the words of an index, of which at most 100 tracks are read, spread evenly."""
    tracks = store.tracks()
    rows = np.unique(np.linspace(0, len(tracks) - 1, min(len(tracks), MAX_TRACKS)).astype(np.int64))
    read = [tracks[row] for row in rows]
    fingerprints = {track.fingerprint: number for number, track in enumerate(read)}
    return suggest_queries(
        ((fingerprints[track.fingerprint], each.text.text) for track in read for each in store.transcript(track)), limit
    )
