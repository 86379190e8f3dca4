"""Search of pictures and words together.

Each clause of a query is compared with every source: the pictures, the speech, the on-screen text and the subtitles.
Scores of different sources become comparable as standard scores: how far above what unrelated queries reach at best in
this source of this index. Their log-sum-exp is the score of a clause, so that one strong source suffices and two weak
ones help. Several clauses must hold at the same time, or one after the other.

The best frame stands for a picture. Videos that resemble every query are lowered: the mean score of the unrelated
queries in a video is subtracted.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from vidret.encode.sentences import load_sentence_encoder
from vidret.errors import StoreError
from vidret.search.candidates import deepen, find_candidates
from vidret.search.clauses import AnalysedQuery, Clause, check_exclusions, make_structure
from vidret.search.exclusions import split_negatives
from vidret.search.fusion_baseline import (
    FusionBaseline,
    load_baseline,
    load_unrelated,
    store_baseline,
    store_unrelated,
)
from vidret.search.fusion_measuring import measure_pictures, measure_texts
from vidret.search.grammar import Interpretation, interpret, make_plain
from vidret.search.mentions import find_mentions
from vidret.search.picture_scores import VideoPictures, hide_pictures, lower_pictures, score_pictures
from vidret.search.queries import EncodedQuery, parse_query
from vidret.search.ranking import FrameRanker
from vidret.search.reranking import SegmentFeatures
from vidret.search.searcher import Searcher
from vidret.search.text_matching import TextMatch, TextMatcher
from vidret.search.video_candidates import VideoCandidates
from vidret.search.video_scores import ABSENT, VideoScores
from vidret.store.records import CONCEPT
from vidret.store.text_store import TextStore
from vidret.types import ALL_VIDEOS, SOURCES, TEXT_SOURCES, Filters, SearchOptions, Source, TextSource
from vidret.types import Sequence as EventSequence

# Standard deviations that a hint at a source is worth, to that source and against pictures. Without a hint it favours
# pictures: people who look for words say so, or use the very words.
HINT = 1.0
# What a video loses in which excluded words are said or shown; those written with a minus remove it.
SAID = 1.0
VERBATIM = "exactly this is said or shown in a video"
COVERED_TEXTS = 30  # of a clause, whose frames are read as well
MIN_PICTURE_DEVIATION = 0.01
WEAK_SCORE = 1.75  # standard deviations; a lower score says that nothing matches well
# Videos of which all frames are read for several clauses, since the nearest segments of one clause say little about
# where the others are.
MAX_PLACED, MAX_PLACED_SEGMENTS = 40, 1200
MAX_REMEMBERED = 16  # queries: locating asks the one again that has just been searched for
DRIFT = 1.25  # growth of the index above which the baseline is measured again

Match = tuple[int, TextMatch, float]  # video id, text, standard score


class FusedSearcher:
    """Searches the pictures and the words of one index."""

    def __init__(self, searcher: Searcher, texts: TextStore | None) -> None:
        """Set the pictures and the words; None for an index without words."""
        self._searcher, self.texts = searcher, texts
        self.matcher = None if texts is None else TextMatcher(texts)
        self._baseline: FusionBaseline | None = None
        self._checked = (-1, -1)  # the generations of pictures and texts for which the baseline holds
        self._analysed: dict[object, AnalysedQuery] = {}
        self._excluded: tuple[object, tuple[set[int], set[int]]] | None = None
        self._matched: tuple[object, list[list[Match]]] | None = None
        self._whole_videos: tuple[object, dict[int, VideoPictures]] | None = None

    def interpret(self, query: str | EventSequence, sources: Sequence[Source] | None = None) -> Interpretation:
        """Return how a query is understood: as plain words if a text of the index says or shows exactly these."""
        interpretation = interpret(query)
        if self.matcher is None or not isinstance(query, str) or not set(sources or SOURCES) & set(TEXT_SOURCES):
            return interpretation
        text, negatives = split_negatives(query)
        plain = make_plain(text, negatives, negatives)
        if interpretation == plain or not self.matcher.holds(text):
            return interpretation
        return replace(plain, note=VERBATIM)

    def analyse(self, query: str | EventSequence, sources: Sequence[Source] | None = None) -> AnalysedQuery:
        """Return a query with its structure and vectors, as for the last queries if it is one of them.

        Raises:
            VidretError: It has no positive term, an empty negative one, or excludes what it looks for.
        """
        if isinstance(query, str):
            parse_query(query)
        structure = make_structure(self.interpret(query, sources))
        check_exclusions(structure)
        self.update_baseline()  # after the query is known to be valid, since it may take seconds
        names = [name for clause in structure.clauses for name in find_mentions(clause.text)]
        key = (
            structure,
            *(self._searcher.store.get_meta(f"{CONCEPT}.{name}") for name in names),
        )  # as they are taught now
        analysed = self._analysed.get(key)
        if analysed is None:
            while len(self._analysed) >= MAX_REMEMBERED:
                self._analysed.pop(next(iter(list(self._analysed))), None)
            texts = self._searcher.encoder.encode_text(
                [*(clause.text for clause in structure.clauses), *structure.excluded]
            )
            num_clauses = len(structure.clauses)
            self._analysed[key] = analysed = AnalysedQuery(
                structure=structure,
                embeddings=texts[:num_clauses],
                vectors=self._encode_sentences([clause.content for clause in structure.clauses]),
                negatives=texts[num_clauses:],
            )
        return analysed

    def _encode_sentences(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        if self.texts is None:
            return np.zeros((len(texts), 0), np.float32)
        return load_sentence_encoder().encode(texts)

    def rank(self, query: AnalysedQuery, options: SearchOptions, depth: int) -> VideoCandidates:
        """Return the candidate videos; for ``depth`` see ``find_candidates``."""
        sources = options.sources or SOURCES
        matches = self.match_texts(query, sources, options.filters)
        excluded, lowered = self._exclude(query)
        ids: list[np.ndarray] = []
        if "picture" in sources:
            pairs = zip(query.embeddings, query.structure.clauses, strict=True)
            encoded = [EncodedQuery(positive=embedding) for embedding, clause in pairs if not clause.phrases]
            count = len(encoded)
            ids += find_candidates(self._searcher.store, encoded, [options] * count, [depth] * count, excluded)
        ids.append(self._cover(matches))
        pictures = self._score_pictures(query, self._read(np.unique(np.concatenate(ids))))
        ranked = self._collect(query, pictures, matches, sources, excluded=excluded)
        if query.structure.is_joint and "picture" in sources:
            best = self._list_segments(ranked.list_best(MAX_PLACED))
            pictures = self._score_pictures(query, self._read(best))
            self._whole_videos = (self._checked, query), pictures
            return ranked.replace_pictures(lower_pictures(pictures, lowered, SAID))
        return ranked

    def deepen(self, query: AnalysedQuery, options: SearchOptions, depth: int, num_videos: int) -> int | None:
        """Return the depth at which to rank again; None if that finds nothing: only texts hold phrases."""
        if any(clause.phrases for clause in query.structure.clauses):
            return None
        return deepen(self._searcher.store, options, depth, num_videos, self._exclude(query)[0])

    def _list_segments(self, video_ids: Sequence[int]) -> np.ndarray:
        """Return all segments of some videos, as long as there are not too many."""
        ids: list[int] = []
        for video_id in video_ids:
            own = self._searcher.store.video_segments(video_id)
            if ids and len(ids) + len(own) > MAX_PLACED_SEGMENTS:
                break
            ids += own
        return np.array(ids, np.int64)

    def score_video(
        self, query: AnalysedQuery, video_id: int, matches: Sequence[Sequence[Match]], sources: Sequence[Source]
    ) -> VideoScores | None:
        """Return the scores of all of one video, from what ``match_texts`` returned; None if nothing is stored."""
        own = [[each for each in clause if each[0] == video_id] for clause in matches]
        pictures = self._score_whole_video(query, video_id)
        found = self._collect(query, pictures, own, sources)
        return next((video for video in found if video.video_id == video_id), None)

    def _score_whole_video(self, query: AnalysedQuery, video_id: int) -> dict[int, VideoPictures]:
        """Return the frames of a video, as the last search has read them if it has."""
        if (whole := self._whole_videos) is not None:
            key, pictures = whole
            if key == (self._checked, query) and video_id in pictures:
                return {video_id: pictures[video_id]}
        features = self._searcher.reranker.read_again(self._searcher.store.video_segments(video_id))
        return self._score_pictures(query, features)

    # Words

    def match_texts(
        self,
        query: AnalysedQuery,
        sources: Sequence[Source],
        filters: Filters = ALL_VIDEOS,
        *,
        video_id: int | None = None,
    ) -> list[list[Match]]:
        """Return, for each clause, (video id, text, standard score), best first.

        These are the best of the videos that match, or all of one video. Those of the last query are remembered: a
        search goes deeper, and moments are located, with the same ones.
        """
        key = (self._checked, query, tuple(sources), filters, video_id)
        matched = self._matched  # read once: other threads have queries of their own
        if matched is None or matched[0] != key:
            self._matched = matched = key, self._match_texts(query, sources, filters, video_id)
        return matched[1]

    def _match_texts(
        self, query: AnalysedQuery, sources: Sequence[Source], filters: Filters, video_id: int | None
    ) -> list[list[Match]]:
        clauses, store = query.structure.clauses, self._searcher.store
        if self.matcher is None or self.texts is None:
            return [[] for _ in clauses]
        if video_id is None:
            allowed = self.texts.allow(store.snapshot(), filters, self._exclude(query)[0], sources)
            found = self.matcher.find(clauses, query.vectors, allowed)
        else:
            try:
                fingerprint = store.video(video_id).fingerprint
            except StoreError:  # its row is damaged
                return [[] for _ in clauses]
            found = self.matcher.score_content(fingerprint, clauses, query.vectors)
        contents = store.contents({match.stored.fingerprint for own in found for match in own})
        scored = []
        for clause, matches in zip(clauses, found, strict=True):
            rows = [
                (contents[match.stored.fingerprint], match, self._standardise(clause, match))
                for match in matches
                if match.source in sources and match.stored.fingerprint in contents
            ]
            scored.append(sorted(rows, key=lambda row: -row[2]))
        return scored

    def _standardise(self, clause: Clause, match: TextMatch) -> float:
        baseline = self.baseline.texts.get(match.source)
        score = ABSENT if baseline is None else baseline.standardise(match.cosine, match.cover)
        return score + (HINT if hints_at(clause, match.source) else 0.0)

    def _cover(self, matches: Sequence[Sequence[Match]]) -> np.ndarray:
        """Return the segments of the pictures that are seen while the best texts are said or shown."""
        return self._searcher.store.overlapping_segments(
            [
                (video_id, match.stored.text.start, match.stored.text.end)
                for clause in matches
                for video_id, match, _ in clause[:COVERED_TEXTS]
            ]
        )

    def _exclude(self, query: AnalysedQuery) -> tuple[set[int], set[int]]:
        """Return the videos in which a forbidden term is said or shown, and those in which another excluded one is."""
        key = (self._checked, query)
        known = self._excluded  # read once, as above
        if known is None or known[0] != key:
            structure = query.structure
            others = set(structure.excluded) - set(structure.forbidden)
            self._excluded = known = key, (self._find_holders(structure.forbidden), self._find_holders(others))
        return known[1]

    def _find_holders(self, terms: Iterable[str]) -> set[int]:
        """Return the videos in which one of some terms is said or shown; taught concepts are neither."""
        if self.matcher is None:
            return set()
        held = [self.matcher.holds(term) for term in terms if not find_mentions(term)]
        return set(self._searcher.store.snapshot().find_contents(set().union(*held)).values())

    # Scores

    def _collect(
        self,
        query: AnalysedQuery,
        pictures: Mapping[int, VideoPictures],
        matches: Sequence[Sequence[Match]],
        sources: Sequence[Source],
        *,
        excluded: Set[int] = frozenset(),
    ) -> VideoCandidates:
        num_clauses, (_, lowered) = len(query.structure.clauses), self._exclude(query)
        texts: dict[int, list[list[tuple[TextMatch, float]]]] = {}
        for index, clause in enumerate(matches):
            for video_id, match, score in clause:
                if video_id not in excluded:
                    own = texts.setdefault(video_id, [[] for _ in range(num_clauses)])[index]
                    own.append((match, score - SAID if video_id in lowered else score))
        if "picture" not in sources:
            pictures = hide_pictures(pictures, ABSENT)
        kept = {video_id: each for video_id, each in pictures.items() if video_id not in excluded}
        return VideoCandidates(query.structure, lower_pictures(kept, lowered, SAID), texts)

    def _read(self, ids: np.ndarray) -> SegmentFeatures:
        return self._searcher.reranker.read(FrameRanker(), ids)

    def _score_pictures(self, query: AnalysedQuery, features: SegmentFeatures) -> dict[int, VideoPictures]:
        """Return the frames of some segments by video, with their standard scores for each clause."""
        clauses = np.stack([embedding.sentence for embedding in query.embeddings])
        negatives = np.array([each.sentence for each in query.negatives], np.float32).reshape(-1, clauses.shape[1])
        baseline = self.baseline
        deviation = max(baseline.picture_deviation, MIN_PICTURE_DEVIATION)
        hints = [HINT if clause.source is None else -HINT for clause in query.structure.clauses]
        offsets = [embedding.offset / deviation for embedding in query.embeddings]
        return score_pictures(
            features,
            clauses=clauses,
            negatives=negatives,
            unrelated=self._unrelated,
            mean=baseline.picture_mean,
            deviation=deviation,
            hints=np.add(hints, offsets),
        )

    # Unrelated queries

    @cached_property
    def _unrelated(self) -> Float32[np.ndarray, "query dim"]:
        stored = self._load_unrelated()
        return self._searcher.encode_unrelated() if stored is None else stored

    def _load_unrelated(self) -> Float32[np.ndarray, "query dim"] | None:
        return None if self.texts is None else load_unrelated(self.texts, self._searcher.encoder.fingerprint)

    @property
    def baseline(self) -> FusionBaseline:
        """The baseline, as ``update_baseline`` left it."""
        return self._baseline or self.update_baseline()

    def update_baseline(self) -> FusionBaseline:
        """Return the baseline: as it is stored, or measured now if the index has grown since."""
        sizes = self._sizes
        generations = self._searcher.store.generation, -1 if self.texts is None else self.texts.generation
        if self._baseline is None or self._checked != generations:
            known = self._baseline or self._load_baseline()
            if known is None or any(size > DRIFT * old for size, old in zip(sizes, known.sizes, strict=True)):
                known = self.measure_baseline()
            self._baseline, self._checked = known, generations
        return self._baseline

    @property
    def _sizes(self) -> tuple[int, int]:
        return len(self._searcher.store), 0 if self.texts is None else len(self.texts)

    def _load_baseline(self) -> FusionBaseline | None:
        return None if self.texts is None else load_baseline(self.texts)

    def measure_baseline(self) -> FusionBaseline:
        """Search for what has nothing to do with the index, and return what that reaches."""
        mean, deviation = measure_pictures(self._searcher, self._unrelated)
        texts = {} if self.matcher is None else measure_texts(self.matcher, self._encode_sentences)
        return FusionBaseline(sizes=self._sizes, picture_mean=mean, picture_deviation=deviation, texts=texts)

    def has_stored_baseline(self) -> bool:
        """Return whether the stored baseline was measured on an index as large as it is, with what it needs."""
        known = self._load_baseline()
        return known is not None and known.sizes == self._sizes and self._load_unrelated() is not None

    def save_baseline(self) -> None:
        """Measure the baseline, and store it beside the texts, unless the index is as large as it was."""
        if self.texts is not None and not self.has_stored_baseline():
            self._baseline = baseline = self.measure_baseline()
            store_unrelated(self.texts, self._searcher.encoder.fingerprint, self._unrelated)
            store_baseline(self.texts, baseline)


def hints_at(clause: Clause, source: TextSource) -> bool:
    """Return whether a clause hints at a source; subtitles are speech that was written down."""
    return clause.source is not None and (source == clause.source or (source, clause.source) == ("subtitles", "speech"))
