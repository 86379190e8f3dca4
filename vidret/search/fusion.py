"""What the channels of one index say about the clauses of a query, brought together by video.

A clause is compared with the pictures, the speech, the on-screen text, the subtitles and the generated descriptions,
as far as the index has them. Each turns its scores into evidence in nats, and the log-sum-exp of it is the score of
the clause. Pictures are ranked as they are without texts, so that a channel that has nothing to say changes nothing.
Several clauses must hold at the same time, or one after the other.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from vidret.channels.base import EncodedQuery, Match
from vidret.channels.picture.channel import PictureChannel, PictureQuery, deepen
from vidret.channels.picture.evidence import VideoPictures, lower_pictures
from vidret.channels.picture.scales import lower_hinted
from vidret.channels.texts.channel import TextChannel
from vidret.search.query.clauses import AnalysedQuery, QueryStructure
from vidret.search.query.mentions import find_mentions
from vidret.search.video_candidates import VideoCandidates
from vidret.search.video_scores import VideoScores
from vidret.types import SOURCES, SearchOptions, Source

# What a video loses in which excluded words are said or shown; those written with a minus remove it.
SAID = 1.0
COVERED_TEXTS = 30  # of a clause, whose frames are read as well
# Videos of which all frames are read for several clauses, since the nearest segments of one clause say little about
# where the others are.
MAX_PLACED, MAX_PLACED_SEGMENTS = 200, 1200

logger = logging.getLogger(__name__)

TimeSpan = tuple[int, float, float]  # id of a video, start and end in seconds


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Question:
    """A query with what the texts of an index say about it.

    Attributes:
        query: The query.
        sources: What it is compared with.
        pictures: What pictures are compared with; None if they are not.
        matches: The matching texts of each clause, best first.
        excluded: The videos in which a forbidden term is said or shown.
        lowered: The videos in which another excluded term is.
    """

    query: AnalysedQuery
    sources: tuple[Source, ...]
    pictures: PictureQuery | None
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


class Fusion:
    """The channels of one index."""

    def __init__(self, pictures: PictureChannel, texts: TextChannel | None) -> None:
        """Set the channels; None for an index without texts."""
        self.pictures, self.texts = pictures, texts

    def ask(self, query: AnalysedQuery, options: SearchOptions, *, video_id: int | None = None) -> Question:
        """Return a query with the texts that match it: the best of the index, or all of one video."""
        sources, structure = tuple(options.sources or SOURCES), query.structure
        excluded = lowered = frozenset[int]()
        matches: list[list[Match]] = [[] for _ in structure.clauses]
        texts = self.texts if query.is_text else None
        if texts is not None:
            spoken = [term for term in structure.excluded if not find_mentions(term)]  # a concept is not spoken
            excluded = texts.find_holders(term for term in spoken if term in structure.forbidden)
            lowered = texts.find_holders(term for term in spoken if term not in structure.forbidden)
            if set(sources) != {"picture"}:
                asked = (structure.clauses, query.vectors, sources)
                if video_id is None:
                    matches = texts.find(*asked, options.filters, excluded=excluded)
                else:
                    matches = texts.score(*asked, video_id)
        has_rivals = texts is not None and len(sources) > 1
        pictures = PictureQuery(
            clauses=query.encoded,
            rerank=options.rerank,
            hints=[lower_hinted(clause) if has_rivals else 0.0 for clause in structure.clauses],
            is_free=[not clause.phrases for clause in structure.clauses],
        )
        return Question(
            query=query,
            sources=sources,
            pictures=pictures if "picture" in sources else None,
            matches=matches,
            excluded=excluded,
            lowered=lowered,
        )

    def rank(self, question: Question, options: SearchOptions, depth: int) -> VideoCandidates:
        """Return the candidate videos; for ``depth`` see ``find_candidates``."""
        if question.pictures is None:
            return self._fuse(question, {})
        covered = self._list_covered(question)
        also = self.pictures.store.overlapping_segments(covered)
        found = self.pictures.find(question.pictures, options, depth, excluded=question.excluded, also=also)
        ranked = self._fuse(question, found)
        if not question.structure.is_joint:
            if all(question.pictures.is_free) and not options.refine:  # others do not depend on the nearest segments
                ranked.complete = partial(self._complete, question, covered)
            return ranked
        if not found:
            return ranked
        placed = self._list_segments(ranked.list_best(MAX_PLACED))
        return ranked.replace_pictures(self._lower(question, self.pictures.score(question.pictures, placed)))

    def _complete(self, question: Question, covered: Sequence[TimeSpan], video_ids: Sequence[int]) -> VideoCandidates:
        """Return some videos with the segments and texts that set their scores, whatever number of candidates."""
        assert question.pictures is not None
        chosen = set(video_ids)
        also = self.pictures.store.overlapping_segments(span for span in covered if span[0] in chosen)
        pictures = self.pictures.find_in_videos(question.pictures, video_ids, also=also)
        matches = [[match for match in clause if match.video_id in chosen] for clause in question.matches]
        return self._fuse(replace(question, matches=matches), pictures)

    def deepen(self, question: Question, options: SearchOptions, depth: int, num_videos: int) -> int | None:
        """Return the depth at which to rank again; None if that finds nothing: only texts hold phrases."""
        if any(clause.phrases for clause in question.structure.clauses):
            return None
        return deepen(self.pictures.store, options, depth, num_videos, question.excluded)

    def score_video(self, question: Question, video_id: int) -> VideoScores | None:
        """Return the scores of all of one video over time; None if nothing of it is stored."""
        pictures: dict[int, VideoPictures] = {}
        if question.pictures is not None:
            pictures = self.pictures.score(question.pictures, self.pictures.store.segments.ids_of_video(video_id))
        matches = [[match for match in clause if match.video_id == video_id] for clause in question.matches]
        found = self._fuse(replace(question, matches=matches, excluded=frozenset()), pictures)
        return next((video for video in found if video.video_id == video_id), None)

    def count(self, sources: Sequence[Source]) -> int:
        """Return the number of segments and texts that a query is compared with."""
        num_texts = len(self.texts) if self.texts is not None and set(sources) != {"picture"} else 0
        return num_texts + (len(self.pictures) if "picture" in sources else 0)

    def _list_covered(self, question: Question) -> list[TimeSpan]:
        """Return video, start and end of the best texts, while which pictures are read."""
        return [
            (match.video_id, match.start, match.end)
            for clause, matches in zip(question.structure.clauses, question.matches, strict=True)
            for match in matches[: None if clause.asks_more else COVERED_TEXTS]
        ]

    def _fuse(self, question: Question, pictures: dict[int, VideoPictures]) -> VideoCandidates:
        texts: dict[int, list[list[Match]]] = {}
        for index, clause in enumerate(question.structure.clauses):
            asks_more = clause.asks_more
            for match in question.matches[index]:
                video_id = match.video_id
                if video_id in question.excluded or (match.is_silent and video_id in pictures):
                    continue
                if video_id not in texts:
                    texts[video_id] = [[] for _ in question.matches]
                if asks_more and video_id in pictures:
                    match = replace(match, evidence=match.evidence + pictures[video_id].best[index])
                if video_id in question.lowered:
                    match = replace(match, evidence=match.evidence - SAID)
                texts[video_id][index].append(match)
        kept = {video_id: each for video_id, each in pictures.items() if video_id not in question.excluded}
        return VideoCandidates(question.structure, self._lower(question, kept), texts)

    def _lower(self, question: Question, pictures: dict[int, VideoPictures]) -> dict[int, VideoPictures]:
        return lower_pictures(pictures, question.lowered, SAID) if question.lowered else pictures

    def _list_segments(self, video_ids: Sequence[int]) -> list[int]:
        """Return all segments of some videos, as long as there are not too many."""
        ids: list[int] = []
        for number, video_id in enumerate(video_ids):
            own = self.pictures.store.segments.ids_of_video(video_id)
            if ids and len(ids) + len(own) > MAX_PLACED_SEGMENTS:
                _note_bound(number)
                break
            ids += own
        return ids


@lru_cache(maxsize=1)
def _note_bound(num_videos: int) -> None:
    """Log, once, that events were placed by the frames of some videos only."""
    logger.info("events were placed by all frames of the best %d videos, by the nearest segments of others", num_videos)
