"""Fusion of the evidence of an index's channels for the clauses of a query, by video.

A clause is compared with the pictures, the speech, the on-screen text, the subtitles and the generated descriptions
that the index has. Each channel turns its scores into evidence in nats, whose log-sum-exp is the score of the clause. A
channel without a match changes nothing: pictures are then ranked as without texts. Several clauses must hold at the
same time, or one after the other.
"""

import heapq
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Float

from vidret.channels.base import ChannelQuery, Match, TimeSpan, VideoTexts, WeighSegments
from vidret.channels.picture.channel import list_segments
from vidret.channels.picture.evidence import VideoPictures, lower_pictures
from vidret.channels.sounds.channel import SoundChannel, join_evidence
from vidret.channels.texts.channel import TextChannel
from vidret.channels.texts.matching import PHRASES, TEXTS
from vidret.search.feedback import Feedback, Ids, SegmentSpace
from vidret.search.open_index import OpenIndex
from vidret.search.people import Presence
from vidret.search.query.clauses import AnalysedQuery, QueryStructure
from vidret.search.query.marks import find_mentions
from vidret.search.video_scores import ABSENT, VideoCandidates, VideoScores
from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, SOURCES, Evidence, SearchOptions

# Loss of a video in which excluded words are said or shown; words written with a minus remove the video.
SAID = 1.0
COVERED_TEXTS = 30  # of a clause, while which frames are compared as well
# Videos of which all frames are read for several clauses, since the nearest segments of one clause may lack the others.
MAX_PLACED, MAX_PLACED_SEGMENTS = 200, 1200
# Videos of which all texts are read, since of many that match a clause some are found, perhaps not those at the right
# time.
MAX_COMPLETED, MAX_COMPLETED_TEXTS = 20, 1000

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
    video_ids: Sequence[int] | None = None,
    supposed: Sequence[tuple[int, float]] = (),
) -> Question:
    """Return a query with the texts that match it: the best of the index, or all of some videos.

    ``supposed`` times compete with likes if the options do not list what was seen.
    """
    structure = query.structure
    texts = index.texts if query.vectors.shape[1] else None
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
    question = Question(query=query, asked=asked, texts={}, lowered=lowered, feedback=feedback, presence=presence)
    found = _read_texts(index, question, video_ids)
    return replace(question, asked=replace(asked, covered=_list_covered(structure, found)), texts=found)


def _read_texts(index: OpenIndex, question: Question, video_ids: Sequence[int] | None) -> dict[int, VideoTexts]:
    """Return the texts that match a query: the best of the index, or all of some videos."""
    asked, found = question.asked, dict[int, VideoTexts]()
    channels: tuple[TextChannel | SoundChannel | None, ...] = (index.texts, index.sounds)
    for channel in channels:
        if channel is not None and asked.vectors.shape[1]:
            channel_texts = channel.find(asked) if video_ids is None else channel.score(asked, video_ids)
            found = channel_texts if channel is index.texts else join_evidence(found, channel_texts)
    if asked.weigh is not None:
        found = _weigh_texts(index.store, asked.weigh, found)
    return found if question.presence is None else _adjust_texts(question.presence, found)


def complete_texts(index: OpenIndex, question: Question, video_ids: Sequence[int]) -> Question:
    """Return a question with all texts of some videos: of the first ones with ``MAX_COMPLETED_TEXTS`` texts.

    That others are left as they are is logged.
    """
    if index.texts is None or not video_ids:
        return question
    list_texts = partial(index.texts.list_texts, question.asked)
    chosen = _choose_first(video_ids, list_texts, MAX_COMPLETED_TEXTS, "texts")
    return replace(question, texts={**question.texts, **_read_texts(index, question, chosen)})


def find_incomplete(question: Question, video_ids: Sequence[int]) -> list[int]:
    """Return the videos with texts that match a clause, of which a search may have missed others."""
    missed = find_missed(question)
    return [
        video_id
        for video_id in video_ids
        if any(texts and nats > ABSENT for texts, nats in zip(question.texts.get(video_id, ()), missed, strict=False))
    ]


def find_missed(question: Question) -> list[float]:
    """Return the evidence up to which a search may have missed texts of each clause; ``ABSENT`` if it missed none."""
    is_seen, missed = "picture" in question.asked.sources, list[float]()  # then silent texts do not count
    for index, clause in enumerate(question.asked.clauses):
        matches = (match for video_texts in question.texts.values() for match in video_texts[index])
        telling = [match.evidence for match in matches if not (is_seen and match.is_silent)]
        limit = PHRASES if clause.phrases else TEXTS
        missed.append(heapq.nlargest(limit, telling)[-1] if len(telling) >= limit else ABSENT)
    return missed


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
    best = ranked.list_best(MAX_PLACED)
    if found:
        placed = _choose_first(best, partial(list_segments, index.store), MAX_PLACED_SEGMENTS, "frames")
        found = {**found, **index.pictures.score(asked, placed)}
        ranked.update(_fuse(question, found, placed))
    if raised := ranked.find_raised(best[:MAX_COMPLETED], find_missed(question)):
        ranked.update(_fuse(complete_texts(index, question, raised), found, raised))
    return ranked


def _complete(
    index: OpenIndex, question: Question, known: Mapping[int, VideoPictures], video_ids: Sequence[int]
) -> VideoCandidates:
    """Return some videos with the segments and texts that set their scores, independent of the number of candidates."""
    return _fuse(question, index.pictures.find_in_videos(question.asked, video_ids, known), video_ids)


def score_video(index: OpenIndex, question: Question, video_id: int) -> VideoScores | None:
    """Return the scores of one whole video over time; None if nothing of it is stored."""
    scores = next(iter(_fuse(question, index.pictures.score(question.asked, [video_id]), [video_id])), None)
    structure = question.query.structure
    if scores is not None and structure.clauses[0].phrases and not structure.is_joint:
        # As in ``rank``, only pictures count that are seen while a text has the phrases.
        covered = [span for span in question.asked.covered if span[0] == video_id]
        seen = index.pictures.find(replace(question.asked, covered=covered))
        scores.score = max(video.score for video in _fuse(question, seen, [video_id]))
    return scores


def _fuse(
    question: Question, pictures: Mapping[int, VideoPictures], video_ids: Sequence[int] | None = None
) -> VideoCandidates:
    """Return all candidates, or some."""
    found = question.texts
    if video_ids is not None:
        pictures = {key: pictures[key] for key in video_ids if key in pictures}
        found = {key: found[key] for key in video_ids if key in found}
    texts: dict[int, Sequence[Sequence[Match]]] = {}
    asks_more = [clause.asks_more for clause in question.query.structure.clauses]
    for video_id, video_texts in found.items():
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
        if any(clause_matches) or video_id in pictures:
            texts[video_id] = clause_matches
    return VideoCandidates(question.query.structure, lower_pictures(pictures, question.lowered, SAID), texts)


def _choose_first(
    video_ids: Sequence[int], list_pieces: Callable[[Sequence[int]], Ids], most: int, kind: str
) -> Sequence[int]:
    """Return the first videos that together have at most so many pieces, at least one video."""
    total = 0
    for num_chosen, video_id in enumerate(video_ids):
        total += len(list_pieces([video_id]))
        if num_chosen and total > most:
            _note_bound(num_chosen, kind)
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


@lru_cache(maxsize=2)
def _note_bound(num_videos: int, kind: str) -> None:
    """Log, once, that events were placed by all frames or texts of some videos only."""
    logger.info("events were placed by all %s of the best %d videos, by those found of others", kind, num_videos)
