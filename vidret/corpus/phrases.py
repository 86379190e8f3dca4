"""Phrases that describe videos: names of things and actions, and the words and languages stored in an index."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64

from vidret.store.catalog.texts import TextTrack
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import TextSource

PhraseKind = Literal["seen", "said", "shown"]
WORD = re.compile(r"[^\W\d_]{4,}")  # shorter words are mostly articles and misreadings
MAX_WORDS = 100  # of speech, and of the screen
MAX_PHRASES = 200  # visual ones; more phrases need larger sets for a significant result
PER_VIDEO = 3  # phrases that each video proposes
KINDS: Mapping[TextSource, PhraseKind] = {"speech": "said", "subtitles": "said", "screen": "shown"}
ANY = ""  # in the place of a word
ANY_WORDS: Mapping[PhraseKind, str] = {"said": "speech", "shown": "text on the screen"}


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase, and its kind: whether it describes a picture, speech, or text on the screen."""

    text: str
    kind: PhraseKind


@cache
def list_class_names() -> tuple[str, ...]:
    """Return the names of ImageNet's things and Kinetics' actions, as torchvision has them."""
    from torchvision.models import EfficientNet_B0_Weights  # type: ignore[import-untyped]
    from torchvision.models.video import R3D_18_Weights  # type: ignore[import-untyped]

    names = (*EfficientNet_B0_Weights.DEFAULT.meta["categories"], *R3D_18_Weights.DEFAULT.meta["categories"])
    return tuple(dict.fromkeys(str(name) for name in names))


def propose_phrases(
    texts: Float[np.ndarray, "phrase dim"], vectors: Float[np.ndarray, "video dim"]
) -> Int64[np.ndarray, " proposed"]:
    """Return the ``MAX_PHRASES`` phrases that fit some videos much better than others, in the order of the bank.

    Each video proposes the phrases that stand out in it among all videos, and the most proposed are kept. The choice
    ignores which set a video is in, so it does not bias a comparison of two sets.
    """
    if len(texts) <= MAX_PHRASES:
        return np.arange(len(texts))
    scores = vectors @ texts.T
    deviations = scores - scores.mean(axis=0)
    top = np.argpartition(-deviations, PER_VIDEO, axis=1)[:, :PER_VIDEO]
    votes = np.bincount(top.ravel(), minlength=len(texts))
    chosen = np.lexsort((-deviations.max(axis=0), -votes))[:MAX_PHRASES]
    return np.sort(chosen)


@dataclass(frozen=True, slots=True, eq=False)
class WordScores:
    """The speech and the screen text of videos, as phrases.

    Attributes:
        phrases: ``speech`` and ``text on the screen``, and single words.
        scores: Words per second of the first two; for a word whether it occurs.
        times: For each phrase the videos that have it, and the middle of the text in seconds where each has it first.
    """

    phrases: list[Phrase]
    scores: Float[np.ndarray, "phrase video"]
    times: list[dict[int, float]]


def score_video_words(store: Store, durations: Mapping[int, float]) -> WordScores:
    """Score the words stored for videos, given the duration in seconds of each; empty if none were read.

    The single words are those that occur in closest to half of the videos, which separate videos best.
    """
    columns = {video_id: column for column, video_id in enumerate(durations)}
    totals: dict[PhraseKind, Counter[int]] = defaultdict(Counter)
    firsts: dict[tuple[PhraseKind, str], dict[int, float]] = defaultdict(dict)  # [a word, or any][video]
    for texts, track, video_id in _read_tracks(store, columns):
        kind = KINDS[track.source]
        for text in (stored.text for stored in texts.transcript(track)):
            totals[kind][video_id] += len(text.text.split())
            for word in (ANY, *WORD.findall(text.text.lower())):
                firsts[kind, word].setdefault(video_id, (text.start + text.end) / 2)
    phrases, rows, times = [], [], []
    for kind, counts in totals.items():
        phrases.append(Phrase(ANY_WORDS[kind], kind))
        rows.append([counts[video_id] / max(seconds, 1e-3) for video_id, seconds in durations.items()])
        times.append(firsts[kind, ANY])
        having = {word: len(videos) for (of, word), videos in firsts.items() if of == kind and word != ANY}
        useful = [word for word, count in having.items() if 2 <= count <= len(columns) - 2]
        for word in sorted(useful, key=lambda word: (abs(2 * having[word] - len(columns)), word))[:MAX_WORDS]:
            phrases.append(Phrase(word, kind))
            rows.append([float(video_id in firsts[kind, word]) for video_id in durations])
            times.append(firsts[kind, word])
    return WordScores(phrases, np.array(rows, np.float64).reshape(len(rows), len(columns)), times)


def _read_tracks(store: Store, videos: Collection[int]) -> Iterator[tuple[TextStore, TextTrack, int]]:
    """Yield each text track of some videos, with the open text store and the id of the video."""
    if not TextStore.exists(store.path):
        return
    contents = {content: video_id for video_id, content in store.videos.fingerprints().items() if video_id in videos}
    with TextStore.open(store.path) as texts:
        for track in texts.tracks():
            if track.fingerprint in contents and track.source in KINDS:
                yield texts, track, contents[track.fingerprint]


# Visible things among the hypernyms in WordNet 3.0 of five or more of ImageNet's classes.
CLASS_PARENTS = (
    *("animal", "mammal", "dog", "hunting dog", "hound", "terrier", "shepherd dog", "spaniel", "retriever", "toy dog"),
    *("cat", "big cat", "ungulate", "ruminant", "primate", "monkey", "ape", "rodent", "bird", "aquatic bird", "finch"),
    *("game bird", "wading bird", "fish", "shark", "reptile", "snake", "lizard", "turtle", "amphibian", "salamander"),
    *("insect", "beetle", "butterfly", "spider", "crustacean", "mollusk", "fungus", "flower", "fruit", "vegetable"),
    *("food", "dish of food", "baked goods", "vehicle", "motor vehicle", "car", "truck", "military vehicle", "boat"),
    *("ship", "aircraft", "machine", "tool", "hand tool", "weapon", "measuring instrument", "timepiece", "computer"),
    *("electronic equipment", "home appliance", "kitchen appliance", "kitchen utensil", "cooking utensil", "bottle"),
    *("musical instrument", "wind instrument", "stringed instrument", "percussion instrument", "sports equipment"),
    *("ball", "furniture", "seat", "clothing", "garment", "headdress", "footwear", "toiletry", "bag", "box", "fabric"),
    *("building", "house", "shop", "fence", "mountain", "geological formation", "body of water"),
)
# Kinds of videos, and places and ways of filming.
SCENE_KINDS = (
    *("an animated cartoon", "a video game", "a computer rendering", "a drawing", "a diagram", "a map", "a title card"),
    *("a black and white film", "a close-up", "an aerial view", "underwater", "at night", "at sunset", "a dark room"),
    *("a kitchen", "a living room", "an office", "a classroom", "a shop", "a factory", "a workshop", "a stage"),
    *("a studio", "a sports field", "a stadium", "a gym", "a street", "a road", "a car interior", "a city"),
    *("a village", "a forest", "a field", "a garden", "a beach", "the sea", "a river", "a lake", "a desert", "snow"),
    "mountains",
    *("the sky", "people talking", "a person talking to the camera", "a crowd", "a child", "hands at work"),
    *("cooking", "sports", "dancing", "playing music", "driving", "flying", "fire", "machinery at work"),
)


@cache
def list_bank() -> tuple[str, ...]:
    """Return all phrases, each once."""
    return tuple(dict.fromkeys((*list_class_names(), *CLASS_PARENTS, *SCENE_KINDS)))


UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordShare:
    """The number of videos read for one kind of words, and the number of those that have any."""

    num_read: int
    num_with: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenLanguage:
    """A language that is spoken or in subtitles: its ISO 639-1 code, its videos, and the hours of its words."""

    code: str
    num_videos: int
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WordUse:
    """The words in some videos; a share is None if the index read no words of its kind."""

    said: WordShare | None
    shown: WordShare | None
    languages: tuple[SpokenLanguage, ...]


def measure_word_use(store: Store, durations: Mapping[int, float]) -> WordUse:
    """Measure the words stored for some videos, given the duration in seconds of each."""
    read, having = defaultdict[PhraseKind, set[int]](set), defaultdict[PhraseKind, set[int]](set)
    seconds = defaultdict[str, defaultdict[int, float]](lambda: defaultdict(float))
    for texts, track, video_id in _read_tracks(store, durations):
        if not track.complete:
            continue
        kind = KINDS[track.source]
        read[kind].add(video_id)
        if track.num_texts:
            having[kind].add(video_id)
        if kind == "said":
            for text in (stored.text for stored in texts.transcript(track)):
                seconds[text.language or UNKNOWN][video_id] += text.end - text.start

    def share(kind: PhraseKind) -> WordShare | None:
        return WordShare(num_read=len(read[kind]), num_with=len(having[kind])) if read[kind] else None

    languages = (
        SpokenLanguage(code=code, num_videos=len(videos), hours=sum(videos.values()) / 3600)
        for code, videos in seconds.items()
    )
    ordered = sorted(languages, key=lambda language: (-language.hours, language.code))
    return WordUse(said=share("said"), shown=share("shown"), languages=tuple(ordered))
