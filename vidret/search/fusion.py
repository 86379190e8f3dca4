"""Fusion of the evidence of an index's channels for the clauses of a query, by video.

A clause is compared with the pictures, the speech, the on-screen text, the subtitles and the generated descriptions
that the index has. Each channel turns its scores into evidence in nats, whose log-sum-exp is the score of the clause. A
channel without a match changes nothing: pictures are then ranked as without texts. Several clauses must hold at the
same time, or one after the other.
"""

import heapq
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Float

from vidret.channels.base import ChannelQuery, Match, TimeSpan, VideoTexts, WeighSegments
from vidret.channels.picture.channel import list_segments
from vidret.channels.picture.evidence import VideoPictures, lower_pictures
from vidret.channels.sounds.channel import SoundChannel, join_evidence
from vidret.channels.texts.channel import TextChannel
from vidret.search.feedback import Feedback, Ids, SegmentSpace
from vidret.search.open_index import OpenIndex
from vidret.search.people import Presence
from vidret.search.query.clauses import AnalysedQuery, QueryStructure
from vidret.search.query.marks import find_mentions
from vidret.search.video_scores import VideoCandidates, VideoScores
from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, SOURCES, Evidence, SearchOptions

# Loss of a video in which excluded words are said or shown; words written with a minus remove the video.
SAID = 1.0
COVERED_TEXTS = 30  # of a clause, while which frames are compared as well
# Videos of which all frames are read for several clauses, since the nearest segments of one clause may lack the others.
MAX_PLACED, MAX_PLACED_SEGMENTS = 200, 1200

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Question:
    """A query with the matching texts of an index.

    Attributes:
        asked: The query for each channel.
        texts: The matching texts by video.
        lowered: The videos with a text that has an excluded, but not forbidden, term.
        feedback: The likes and dislikes; None without any.
        presence: The persons that it names; None without any.
    """

    query: AnalysedQuery
    asked: ChannelQuery
    texts: Mapping[int, VideoTexts]
    lowered: frozenset[int] = frozenset()
    feedback: Feedback | None = None
    presence: Presence | None = None

    def add_persons(
        self, evidence: tuple[Evidence, ...], video_id: int, spans: Sequence[tuple[float, float]]
    ) -> tuple[Evidence, ...]:
        """Return evidence with the tracks of the query's persons in spans of a video, each once.

        The tracks replace the evidence if the query names only persons, since pictures were not compared then.
        """
        if self.presence is None:
            return evidence
        found = tuple(dict.fromkeys(piece for span in spans for piece in self.presence.find_evidence(video_id, *span)))
        return found if found and all(self.presence.bare) else evidence + found


def make_question(
    index: OpenIndex,
    query: AnalysedQuery,
    options: SearchOptions,
    *,
    video_id: int | None = None,
    supposed: Sequence[tuple[int, float]] = (),
) -> Question:
    """Return a query with the texts that match it: the best of the index, or all of one video.

    ``supposed`` times compete with likes if the options do not list what was seen.
    """
    structure = query.structure
    texts, sounds = (index.texts, index.sounds) if query.vectors.shape[1] else (None, None)
    excluded = lowered = frozenset[int]()
    if texts is not None and structure.excluded:
        spoken = [term for term in structure.excluded if not find_mentions(term)]  # a concept is not spoken
        excluded = texts.find_holders(term for term in spoken if term in structure.forbidden)
        lowered = texts.find_holders(term for term in spoken if term not in structure.forbidden)
    sources, feedback, presence = options.sources or SOURCES, None, index.people.find_presence(structure)
    if options.like or options.unlike:
        feedback = index.segments.read_feedback(options.like, options.unlike, options.seen or (), supposed)
    asked = ChannelQuery(
        clauses=structure.clauses,
        encoded=query.encoded,
        vectors=query.vectors,
        sources=tuple(source for source in sources if source == "picture" or texts is not None),
        options=options,
        within=index.store.select(options.filters, excluded),
        depth=options.candidates,
        examples=query.examples,
        weigh=None if feedback is None else partial(_weigh, index.segments, feedback, structure),
        adjust=None if presence is None else presence.adjust,
    )
    found: dict[int, VideoTexts] = {}
    channels: list[TextChannel | SoundChannel] = [part for part in (texts, sounds) if part is not None]
    for channel in channels:
        channel_texts = channel.find(asked) if video_id is None else channel.score(asked, [video_id])
        found = channel_texts if channel is texts else join_evidence(found, channel_texts)
    if asked.weigh is not None:
        found = _weigh_texts(index.store, asked.weigh, found)
    if presence is not None:
        found = _adjust_texts(presence, found)
    return Question(
        query=query,
        asked=replace(asked, covered=_list_covered(structure, found)),
        texts=found,
        lowered=lowered,
        feedback=feedback,
        presence=presence,
    )


def _weigh(
    segments: SegmentSpace, feedback: Feedback, structure: QueryStructure, ids: Ids
) -> Float[np.ndarray, "clause segment"]:
    """Return the nats that feedback adds to each clause, scaled so that its evidence adds to the score of the query."""
    shares = np.zeros(len(structure.clauses))
    for step in structure.steps:
        shares[list(step)] = 1 / math.sqrt(len(step) * len(structure.steps))
    return np.outer(shares, segments.weigh(feedback, ids))


def _weigh_texts(store: Store, weigh: WeighSegments, found: Mapping[int, VideoTexts]) -> dict[int, VideoTexts]:
    """Return texts with the weight of the best segment that each text overlaps added."""
    spans = [
        *{
            (match.video_id, match.start, match.end)
            for video_texts in found.values()
            for clause in video_texts
            for match in clause
        }
    ]
    seen = store.overlapping(spans)
    ids = np.unique(np.concatenate([np.zeros(0, np.int64), *seen]))
    weights = weigh(ids)
    gains = {
        span: weights[:, np.searchsorted(ids, segment_ids)].max(axis=1).tolist()
        for span, segment_ids in zip(spans, seen, strict=True)
        if len(segment_ids)
    }
    nothing = [0.0] * len(weights)
    weighed = {}
    for video_id, video_texts in found.items():
        matches: list[list[Match]] = [[] for _ in video_texts]
        for clause, match in ((clause, match) for clause, texts in enumerate(video_texts) for match in texts):
            nats = gains.get((match.video_id, match.start, match.end), nothing)[clause]
            matches[clause].append(match._replace(evidence=match.evidence + nats))
        weighed[video_id] = [sorted(texts, key=lambda match: -match.evidence) for texts in matches]
    return weighed


def count_compared(index: OpenIndex, asked: ChannelQuery) -> int:
    """Return the number of segments and texts that a query is compared with, given its filters."""
    store, texts, filters, share = index.store, index.texts, asked.options.filters, 1.0
    if filters != ALL_VIDEOS:
        share = store.select(filters).num_videos / max(store.select().num_videos, 1)
    num_compared = (0 if texts is None else texts.count(asked)) + len(store) * ("picture" in asked.sources)
    return max(round(share * num_compared), 1)


def rank(index: OpenIndex, question: Question, depth: int) -> VideoCandidates:
    """Return the candidate videos, from the ``depth`` nearest segments."""
    asked, covered = replace(question.asked, depth=depth), [*question.asked.covered]
    if question.feedback is not None:
        covered += index.segments.find_candidates(index.pictures, asked, question.feedback)
    if question.presence is not None and "picture" in asked.sources:
        covered += question.presence.find_spans(index.store, asked)
    asked = replace(asked, covered=covered)
    question = replace(question, asked=asked)
    found = index.pictures.find(asked)
    ranked = _fuse(question, found)
    if not question.query.structure.is_joint:
        if "picture" in asked.sources and not asked.clauses[0].phrases and not asked.options.refine:
            # Other queries do not depend on the nearest segments.
            ranked.complete = partial(_complete, index, question, found)
        return ranked
    if not found:
        return ranked
    placed = _choose_placed(index.store, ranked.list_best(MAX_PLACED))
    pictures = index.pictures.score(asked, placed)
    return ranked.replace_pictures(lower_pictures(pictures, question.lowered, SAID))


def _complete(
    index: OpenIndex, question: Question, known: Mapping[int, VideoPictures], video_ids: Sequence[int]
) -> VideoCandidates:
    """Return some videos with the segments and texts that set their scores, independent of the number of candidates."""
    texts = {video_id: question.texts[video_id] for video_id in video_ids if video_id in question.texts}
    pictures = index.pictures.find_in_videos(question.asked, video_ids, known)
    return _fuse(replace(question, texts=texts), pictures)


def score_video(index: OpenIndex, question: Question, video_id: int) -> VideoScores | None:
    """Return the scores of one whole video over time; None if nothing of it is stored."""
    texts = {video_id: question.texts[video_id]} if video_id in question.texts else {}
    question = replace(question, texts=texts)
    scores = next(iter(_fuse(question, index.pictures.score(question.asked, [video_id]))), None)
    structure = question.query.structure
    if scores is not None and structure.clauses[0].phrases and not structure.is_joint:
        # As in ``rank``, only pictures count that are seen while a text has the phrases.
        covered = [span for span in question.asked.covered if span[0] == video_id]
        seen = index.pictures.find(replace(question.asked, covered=covered))
        scores.score = max(video.score for video in _fuse(question, seen))
    return scores


def _fuse(question: Question, pictures: Mapping[int, VideoPictures]) -> VideoCandidates:
    texts: dict[int, Sequence[Sequence[Match]]] = {}
    asks_more = [clause.asks_more for clause in question.query.structure.clauses]
    for video_id, video_texts in question.texts.items():
        clause_matches: Sequence[Sequence[Match]] = video_texts
        if video_id in pictures:
            clause_matches = [[match for match in clause if not match.is_silent] for clause in clause_matches]
            if any(asks_more):
                gains = [best if asks else 0.0 for asks, best in zip(asks_more, pictures[video_id].best, strict=True)]
                clause_matches = [
                    _add_evidence(clause, gain) for clause, gain in zip(clause_matches, gains, strict=True)
                ]
        if video_id in question.lowered:
            clause_matches = [_add_evidence(clause, -SAID) for clause in clause_matches]
        if any(clause_matches):
            texts[video_id] = clause_matches
    return VideoCandidates(question.query.structure, lower_pictures(pictures, question.lowered, SAID), texts)


def _choose_placed(store: Store, video_ids: Sequence[int]) -> Sequence[int]:
    """Return the first videos that together have at most ``MAX_PLACED_SEGMENTS`` segments."""
    total = 0
    for num_chosen, video_id in enumerate(video_ids):
        total += len(list_segments(store, [video_id]))
        if num_chosen and total > MAX_PLACED_SEGMENTS:
            _note_bound(num_chosen)
            return video_ids[:num_chosen]
    return video_ids


def _list_covered(structure: QueryStructure, texts: Mapping[int, VideoTexts]) -> list[TimeSpan]:
    """Return video, start and end of the best texts, while which pictures are compared."""
    covered: list[TimeSpan] = []
    for index, clause in enumerate(structure.clauses):
        matches = [match for video_texts in texts.values() for match in video_texts[index]]
        if not clause.asks_more:
            matches = heapq.nlargest(COVERED_TEXTS, matches, key=lambda match: match.evidence)
        covered += [(match.video_id, match.start, match.end) for match in matches]
    return covered


def _adjust_texts(presence: Presence, found: Mapping[int, VideoTexts]) -> dict[int, VideoTexts]:
    """Return texts, lowered where the persons of their clauses are absent, without those said by other speakers."""
    adjusted: dict[int, list[list[Match]]] = {
        video_id: [[] for _ in video_texts] for video_id, video_texts in found.items()
    }
    for clause, speakers in enumerate(presence.speakers):
        matches = [match for video_texts in found.values() for match in video_texts[clause]]
        said = [match for match in matches if all(person.speaks(match) for person in speakers)]
        videos = np.array([match.video_id for match in said], np.int64)
        starts, ends = np.array([(match.start, match.end) for match in said], np.float64).reshape(-1, 2).T
        scores = np.array([match.evidence for match in said], np.float64)
        evidence = presence.adjust_clause(clause, videos, starts, ends, scores).tolist()
        for match, nats in sorted(zip(said, evidence, strict=True), key=lambda pair: -pair[1]):
            adjusted[match.video_id][clause].append(match._replace(evidence=nats))
    return adjusted


def _add_evidence(matches: Sequence[Match], nats: float) -> Sequence[Match]:
    return [match._replace(evidence=match.evidence + nats) for match in matches] if nats else matches


@lru_cache(maxsize=1)
def _note_bound(num_videos: int) -> None:
    """Log, once, that events were placed by the frames of some videos only."""
    logger.info("events were placed by all frames of the best %d videos, by the nearest segments of others", num_videos)
