"""Search of one index: what each channel says about the clauses of a query, brought together by video.

A clause is compared with the pictures, the speech, the on-screen text, the subtitles and the generated descriptions,
as far as the index has them. Each turns its scores into evidence in nats, and the log-sum-exp of it is the score of
the clause. Pictures are ranked as they are without words, so that a channel that has nothing to say changes nothing.
Several clauses must hold at the same time, or one after the other.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from vidret.channels.base import Clause, EncodedQuery
from vidret.channels.picture.candidates import deepen, find_candidates
from vidret.channels.picture.evidence import VideoPictures, collect_frames, collect_segments, lower_pictures
from vidret.channels.picture.ranking import FrameRanker, Ranker
from vidret.channels.picture.refining import refine_ranking
from vidret.channels.picture.scales import lower_hinted
from vidret.channels.picture.segments import Searcher
from vidret.channels.texts.background import (
    DRIFT,
    TextBackground,
    load_background,
    measure_background,
    store_background,
)
from vidret.channels.texts.evidence import is_silent, rate_text
from vidret.channels.texts.matching import TextMatch, TextMatcher
from vidret.encode.sentences import load_sentence_encoder
from vidret.errors import StoreError
from vidret.search.concepts.encoder import ConceptEncoder
from vidret.search.query.clauses import AnalysedQuery, QueryStructure, check_exclusions, make_structure
from vidret.search.query.encoding import encode_queries, parse_query
from vidret.search.query.exclusions import split_negatives
from vidret.search.query.grammar import Interpretation, interpret, make_plain
from vidret.search.query.mentions import find_mentions
from vidret.search.video_candidates import VideoCandidates
from vidret.search.video_scores import VideoScores
from vidret.store.texts.store import TextStore
from vidret.types import SOURCES, TEXT_SOURCES, Filters, Query, SearchOptions, Source
from vidret.types import Sequence as EventSequence

# What a video loses in which excluded words are said or shown; those written with a minus remove it.
SAID = 1.0
VERBATIM = "exactly this is said or shown in a video"
COVERED_TEXTS = 30  # of a clause, whose frames are read as well
# Videos of which all frames are read for several clauses, since the nearest segments of one clause say little about
# where the others are.
MAX_PLACED, MAX_PLACED_SEGMENTS = 40, 1200

Match = tuple[int, TextMatch, float]  # video id, text, evidence


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Question:
    """A query with what the words of an index say about it.

    Attributes:
        query: The query.
        sources: What it is compared with.
        rerank: Name of the ranker of pictures, as in ``SearchOptions``.
        matches: The matching texts of each clause, best first.
        excluded: The videos in which a forbidden term is said or shown.
        lowered: The videos in which another excluded term is.
    """

    query: AnalysedQuery
    sources: tuple[Source, ...]
    rerank: str | None
    matches: Sequence[Sequence[Match]]
    excluded: frozenset[int] = frozenset()
    lowered: frozenset[int] = frozenset()

    @property
    def structure(self) -> QueryStructure:
        """The clauses and their order."""
        return self.query.structure

    @property
    def encoded(self) -> list[EncodedQuery]:
        """The clauses, as pictures are compared with them."""
        return self.query.encoded


class FusedSearcher:
    """Searches the pictures and the words of one index."""

    def __init__(self, searcher: Searcher, texts: TextStore | None) -> None:
        """Set the pictures and the words; None for an index without words."""
        self._searcher, self.texts = searcher, texts
        self.matcher = None if texts is None else TextMatcher(texts)
        self._background: tuple[int, TextBackground] | None = None  # with the generation for which it holds

    # The query

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

    def analyse(self, query: Query, sources: Sequence[Source] | None = None) -> AnalysedQuery:
        """Return a query with its structure and vectors.

        Raises:
            VidretError: It has no positive term, an empty negative one, or excludes what it looks for; or an image or
                a vector is invalid.
        """
        encoder = self._searcher.encoder
        assert isinstance(encoder, ConceptEncoder)
        if not isinstance(query, str | EventSequence):
            encoded = encode_queries([query], encoder, encoder.composer)[0]
            return AnalysedQuery(
                structure=QueryStructure(clauses=(Clause(text="", content=""),)),
                embeddings=[encoded.positive],
                vectors=self._encode_sentences([""]),
                negatives=encoded.negatives,
                is_text=False,
            )
        if isinstance(query, str):
            parse_query(query)
        structure = make_structure(self.interpret(query, sources))
        check_exclusions(structure)
        if self.texts is None or set(sources or SOURCES) == {"picture"}:  # no text could hold a phrase
            plain = tuple(replace(clause, phrases=()) for clause in structure.clauses)
            structure = replace(structure, clauses=plain)
        clauses = structure.clauses
        texts = encoder.encode_text([*(clause.text for clause in clauses), *structure.excluded])
        return AnalysedQuery(
            structure=structure,
            embeddings=texts[: len(clauses)],
            vectors=self._encode_sentences([clause.content for clause in clauses]),
            negatives=texts[len(clauses) :],
        )

    def _encode_sentences(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        if self.texts is None:
            return np.zeros((len(texts), 0), np.float32)
        return load_sentence_encoder().encode(texts)

    def ask(self, query: AnalysedQuery, options: SearchOptions, *, video_id: int | None = None) -> Question:
        """Return a query with the texts that match it: the best of the index, or all of one video."""
        sources = tuple(options.sources or SOURCES)
        others = set(query.structure.excluded) - set(query.structure.forbidden)
        excluded = self._find_holders(query.structure.forbidden)
        return Question(
            query=query,
            sources=sources,
            rerank=options.rerank,
            matches=self._match_texts(query, sources, options.filters, excluded, video_id),
            excluded=excluded,
            lowered=self._find_holders(others),
        )

    # Videos

    def rank(self, question: Question, options: SearchOptions, depth: int) -> VideoCandidates:
        """Return the candidate videos; for ``depth`` see ``find_candidates``."""
        store, ids = self._searcher.store, [self._cover(question)]
        pictures: dict[int, VideoPictures] = {}
        if "picture" in question.sources:
            pairs = zip(question.encoded, question.structure.clauses, strict=True)
            free = [query for query, clause in pairs if not clause.phrases]
            ids += find_candidates(store, free, options, depth, question.excluded)
            pictures = self._rank_segments(question, np.unique(np.concatenate(ids)), refine=options.refine)
        ranked = self._collect(question, pictures)
        if question.structure.is_joint and pictures:
            best = self._list_segments(ranked.list_best(MAX_PLACED))
            return ranked.replace_pictures(self._lower(question, self._rank_frames(question, best)))
        return ranked

    def deepen(self, question: Question, options: SearchOptions, depth: int, num_videos: int) -> int | None:
        """Return the depth at which to rank again; None if that finds nothing: only texts hold phrases."""
        if any(clause.phrases for clause in question.structure.clauses):
            return None
        return deepen(self._searcher.store, options, depth, num_videos, question.excluded)

    def score_video(self, question: Question, video_id: int) -> VideoScores | None:
        """Return the scores of all of one video over time; None if nothing of it is stored."""
        pictures: dict[int, VideoPictures] = {}
        if "picture" in question.sources:
            pictures = self._rank_frames(question, self._searcher.store.segments.ids_of_video(video_id))
        matches = [[each for each in clause if each[0] == video_id] for clause in question.matches]
        found = self._collect(replace(question, matches=matches, excluded=frozenset()), pictures)
        return next((video for video in found if video.video_id == video_id), None)

    def _list_segments(self, video_ids: Sequence[int]) -> list[int]:
        """Return all segments of some videos, as long as there are not too many."""
        ids: list[int] = []
        for video_id in video_ids:
            own = self._searcher.store.segments.ids_of_video(video_id)
            if ids and len(ids) + len(own) > MAX_PLACED_SEGMENTS:
                break
            ids += own
        return ids

    def count(self, sources: Sequence[Source]) -> int:
        """Return the number of segments and texts that a query is compared with."""
        has_words = self.texts is not None and set(sources) != {"picture"}
        return len(self._searcher.store) * ("picture" in sources) + (len(self.texts) if has_words and self.texts else 0)

    # Pictures

    def _rank_segments(self, question: Question, ids: np.ndarray, *, refine: bool) -> dict[int, VideoPictures]:
        """Return some segments by video, with their evidence for each clause."""
        stored = self._searcher.reranker.read(self._find_ranker(question), ids)
        if not len(stored.ids):
            return {}
        ranked, evidence = self._searcher.rank(question.encoded, stored, question.rerank)
        if refine and len(ranked) == 1:
            refined = refine_ranking(self._searcher.store, question.encoded[0], ranked[0])
            rated = dict(zip(ranked[0].segments, evidence[0].tolist(), strict=True))
            best = sorted((rated[segment] for segment in refined.segments), reverse=True)
            ranked, evidence = [refined], [np.array(best)]  # another order of the same evidence
        return collect_segments(ranked, [own + self._hint(question, each) for each, own in enumerate(evidence)])

    def _rank_frames(self, question: Question, ids: Sequence[int]) -> dict[int, VideoPictures]:
        """Return all frames of videos, given all of their segments."""
        stored = self._searcher.reranker.read_again(self._find_ranker(question), ids)
        if not len(stored.ids):
            return {}
        ranked, evidence = self._searcher.rank(question.encoded, stored, question.rerank)
        videos = collect_segments(ranked, [rated + self._hint(question, each) for each, rated in enumerate(evidence)])
        slope = self._searcher.find_scale(FrameRanker()).slope
        return collect_frames(stored, videos, question.encoded, slope)

    def _find_ranker(self, question: Question) -> Ranker:
        """Return the ranker of a question, whose tokens alone are read."""
        return self._searcher.get_ranker(question.rerank if question.query.is_text else None)

    def _hint(self, question: Question, clause: int) -> float:
        """Return what a clause that hints at words takes from pictures, if it is compared with words at all."""
        is_compared = self.matcher is not None and question.query.is_text and len(question.sources) > 1
        return lower_hinted(question.structure.clauses[clause]) if is_compared else 0.0

    def _lower(self, question: Question, pictures: dict[int, VideoPictures]) -> dict[int, VideoPictures]:
        return lower_pictures(pictures, question.lowered, SAID) if question.lowered else pictures

    # Words

    def _match_texts(
        self,
        query: AnalysedQuery,
        sources: Sequence[Source],
        filters: Filters,
        excluded: Set[int],
        video_id: int | None,
    ) -> list[list[Match]]:
        """Return, for each clause, (video id, text, evidence), best first."""
        clauses, store = query.structure.clauses, self._searcher.store
        if self.matcher is None or self.texts is None or not query.is_text or set(sources) == {"picture"}:
            return [[] for _ in clauses]
        background = self.background
        if video_id is None:
            allowed = self.texts.allow(store.snapshot(), filters, excluded, sources)
            found = self.matcher.find(clauses, query.vectors, allowed, typical=background.typical)
        else:
            try:
                fingerprint = store.videos.get(video_id).fingerprint
            except StoreError:  # its row is damaged
                return [[] for _ in clauses]
            found = self.matcher.score_content(fingerprint, clauses, query.vectors, typical=background.typical)
        contents = store.videos.contents({match.stored.fingerprint for own in found for match in own})
        scored = []
        for clause, vector, matches in zip(clauses, query.vectors, found, strict=True):
            levels = {source: background.level(source, vector) for source in TEXT_SOURCES}
            rows = [
                (contents[match.stored.fingerprint], match, rate_text(clause, match, levels[match.source]))
                for match in matches
                if match.source in sources and match.stored.fingerprint in contents
            ]
            scored.append(sorted(rows, key=lambda row: -row[2]))
        return scored

    def _cover(self, question: Question) -> np.ndarray:
        """Return the segments of the pictures that are seen while the best texts are said or shown."""
        return self._searcher.store.overlapping_segments(
            [
                (video_id, match.stored.text.start, match.stored.text.end)
                for clause, matches in zip(question.structure.clauses, question.matches, strict=True)
                for video_id, match, _ in matches[: None if clause.asks_more else COVERED_TEXTS]
            ]
        )

    def _find_holders(self, terms: Iterable[str]) -> frozenset[int]:
        """Return the videos in which one of some terms is said or shown; taught concepts are neither."""
        if self.matcher is None:
            return frozenset()
        held = [self.matcher.holds(term) for term in terms if not find_mentions(term)]
        return frozenset(self._searcher.store.snapshot().find_contents(set().union(*held)).values())

    def _collect(self, question: Question, pictures: dict[int, VideoPictures]) -> VideoCandidates:
        texts: dict[int, list[list[tuple[TextMatch, float]]]] = {}
        for index, clause in enumerate(question.structure.clauses):
            for video_id, match, score in question.matches[index]:
                if video_id not in question.excluded and not (video_id in pictures and is_silent(match, score)):
                    own = texts.setdefault(video_id, [[] for _ in question.matches])[index]
                    seen = pictures[video_id].best[index] if clause.asks_more and video_id in pictures else 0.0
                    own.append((match, score + seen - (SAID if video_id in question.lowered else 0.0)))
        kept = {video_id: each for video_id, each in pictures.items() if video_id not in question.excluded}
        return VideoCandidates(question.structure, self._lower(question, kept), texts)

    # The background of words

    @property
    def background(self) -> TextBackground:
        """The background of the words: as it is stored, or measured now if there are many more since."""
        assert self.texts is not None
        generation, known = self.texts.generation, self._background
        if known is None or known[0] != generation:
            background = known[1] if known is not None else load_background(self.texts)
            if background is None or len(self.texts) > DRIFT * background.num_texts:
                background = measure_background(self.texts, self._encode_sentences)
            self._background = known = generation, background
        return known[1]

    def has_stored_background(self) -> bool:
        """Return whether the stored background was measured on as many texts as there are."""
        assert self.texts is not None
        known = load_background(self.texts)
        return known is not None and known.num_texts == len(self.texts)

    def save_background(self) -> None:
        """Measure the background, and store it beside the texts, unless there are as many as there were."""
        if self.texts is not None and not self.has_stored_background():
            store_background(self.texts, measure_background(self.texts, self._encode_sentences))
