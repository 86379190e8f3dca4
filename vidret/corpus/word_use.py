"""How many videos have speech and text on the screen, and which languages are spoken."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidret.corpus.phrases import KINDS, PhraseKind
from vidret.store.store import Store
from vidret.store.texts.store import TextStore

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordShare:
    """How many videos were read for one kind of words, and how many of them have some."""

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

    def to_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        shares = {name: getattr(self, name) for name in ("said", "shown")}
        return {
            **{name: each and {"read": each.num_read, "with": each.num_with} for name, each in shares.items()},
            "languages": [
                {"code": each.code, "num_videos": each.num_videos, "hours": round(each.hours, 4)}
                for each in self.languages
            ],
        }


def measure_word_use(store: Store, durations: Mapping[int, float]) -> WordUse:
    """Measure what an index has read of some videos, given by the duration in seconds of each."""
    if not TextStore.exists(store.path):
        return WordUse(said=None, shown=None, languages=())
    contents = {key: video_id for video_id, key in store.videos.fingerprints().items() if video_id in durations}
    read, having = defaultdict[PhraseKind, set[int]](set), defaultdict[PhraseKind, set[int]](set)
    seconds = defaultdict[str, defaultdict[int, float]](lambda: defaultdict(float))
    with TextStore.open(store.path) as texts:
        for track in texts.tracks():
            video_id, kind = contents.get(track.fingerprint), KINDS.get(track.source)
            if video_id is None or kind is None or not track.complete:
                continue
            read[kind].add(video_id)
            if not track.num_texts:
                continue
            having[kind].add(video_id)
            if kind == "said":
                for stored in texts.transcript(track):
                    seconds[stored.text.language or UNKNOWN][video_id] += stored.text.end - stored.text.start

    def share(kind: PhraseKind) -> WordShare | None:
        return WordShare(num_read=len(read[kind]), num_with=len(having[kind])) if read[kind] else None

    languages = (
        SpokenLanguage(code=code, num_videos=len(videos), hours=sum(videos.values()) / 3600)
        for code, videos in seconds.items()
    )
    ordered = sorted(languages, key=lambda each: (-each.hours, each.code))
    return WordUse(said=share("said"), shown=share("shown"), languages=tuple(ordered))
