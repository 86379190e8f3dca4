"""The timed texts of one index as channels: which match a clause, with their evidence, and what unrelated ones say.

All kinds are found together, in one index of words and one of vectors; each is rated as its own.
"""

from collections.abc import Iterable, Sequence, Set

import numpy as np
from jaxtyping import Float32

from vidret.channels.base import Clause, Match
from vidret.channels.texts.background import (
    DRIFT,
    TextBackground,
    load_background,
    measure_background,
    store_background,
)
from vidret.channels.texts.evidence import rate_texts
from vidret.channels.texts.matching import TextMatcher, TextMatches
from vidret.encode.sentences import load_sentence_encoder
from vidret.errors import StoreError
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import TEXT_SOURCES, Filters, Source


class TextChannel:
    """The texts of an index open for reading."""

    def __init__(self, texts: TextStore, pictures: Store) -> None:
        """Set the texts, and the index whose videos they are of."""
        self.texts, self._pictures = texts, pictures
        self._matcher = TextMatcher(texts)
        self._intact: set[int] = set()  # the videos whose rows were checked
        self._background: tuple[int, TextBackground] | None = None  # with the generation for which it holds

    def __len__(self) -> int:
        """Return the number of texts that a query is compared with."""
        return len(self.texts)

    def find(
        self,
        clauses: Sequence[Clause],
        vectors: Float32[np.ndarray, "clause dim"],
        sources: Sequence[Source],
        filters: Filters,
        *,
        excluded: Set[int],
    ) -> list[list[Match]]:
        """Return the best matches of each clause in all videos that filters allow, but for excluded ones."""
        background, allowed = self.background, self.texts.allow(self._pictures, filters, excluded, sources)
        found = self._matcher.find(clauses, vectors, allowed, typical=background.typical)
        return self._rate(clauses, vectors, sources, found, background)

    def score(
        self,
        clauses: Sequence[Clause],
        vectors: Float32[np.ndarray, "clause dim"],
        sources: Sequence[Source],
        video_id: int,
    ) -> list[list[Match]]:
        """Return all texts of a video as matches of each clause, best first."""
        try:
            fingerprint = self._pictures.videos.get(video_id).fingerprint
        except StoreError:  # its row is damaged
            return [[] for _ in clauses]
        background = self.background
        found = self._matcher.score_content(fingerprint, clauses, vectors, typical=background.typical)
        return self._rate(clauses, vectors, sources, found, background)

    def _rate(
        self,
        clauses: Sequence[Clause],
        vectors: Float32[np.ndarray, "clause dim"],
        sources: Sequence[Source],
        found: Sequence[TextMatches],
        background: TextBackground,
    ) -> list[list[Match]]:
        """Return texts as matches with their evidence, best first, without those of videos with damaged rows."""
        rated = []
        for clause, vector, matches in zip(clauses, vectors, found, strict=True):
            texts = matches.texts
            owners, codes = self.texts.find_owners(self._pictures, np.array([each.track for each in texts], np.int64))
            video_ids, own_sources = owners.tolist(), [TEXT_SOURCES[code] for code in codes.tolist()]
            levels = {source: background.level(source, vector) for source in TEXT_SOURCES}
            evidence = rate_texts(clause, matches, own_sources, levels)
            kept = self._find_intact(video_ids)
            cover, nats = matches.cover.tolist(), evidence.tolist()
            rated.append(
                [
                    Match(
                        video_id=video_ids[row],
                        source=own_sources[row],
                        start=texts[row].start,
                        end=texts[row].end,
                        evidence=nats[row],
                        text=texts[row].text,
                        stems=matches.stems[row],
                        cover=cover[row],
                    )
                    for row in np.argsort(-evidence, kind="stable").tolist()
                    if video_ids[row] in kept and own_sources[row] in sources
                ]
            )
        return rated

    def _find_intact(self, video_ids: Sequence[int]) -> Set[int]:
        """Return the videos whose rows are intact, at least those of some; each is checked once."""
        new = set(video_ids) - self._intact - {-1}
        if new:
            self._intact |= self._pictures.videos.find_intact(new)
        return self._intact

    def holds(self, text: str) -> bool:
        """Return whether a text of the index says or shows exactly these words."""
        return bool(self._matcher.holds(text))

    def find_holders(self, terms: Iterable[str]) -> frozenset[int]:
        """Return the videos in which one of some terms is said or shown."""
        held: set[str] = set().union(*(self._matcher.holds(term) for term in terms))
        return frozenset(self._pictures.find_contents(held).values())

    def mark(self, match: Match) -> tuple[tuple[int, int], ...]:
        """Return where a match holds words of the clause, as start and end in characters."""
        return self._matcher.mark(match.text, match.stems)

    # Unrelated texts

    @property
    def background(self) -> TextBackground:
        """What unrelated texts say: as it is stored, or measured now if there are many more since."""
        generation, known = self.texts.generation, self._background
        if known is None or known[0] != generation:
            background = known[1] if known is not None else load_background(self.texts)
            if background is None or len(self.texts) > DRIFT * background.num_texts:
                background = measure_background(self.texts, load_sentence_encoder().encode)
            self._background = known = generation, background
        return known[1]

    def has_stored_background(self) -> bool:
        """Return whether the stored background was measured on as many texts as there are."""
        known = load_background(self.texts)
        return known is not None and known.num_texts == len(self.texts)

    def save_background(self) -> None:
        """Measure the background, and store it beside the texts, unless there are as many as there were."""
        if not self.has_stored_background():
            store_background(self.texts, measure_background(self.texts, load_sentence_encoder().encode))
