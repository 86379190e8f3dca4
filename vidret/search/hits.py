"""The best videos of a query as hits, with their evidence and their probability."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import TypeVar

import numpy as np

from vidret.channels.base import Match
from vidret.channels.picture.ranking import find_first_best
from vidret.channels.texts.channel import TextChannel
from vidret.encode.families.starter import describe_language
from vidret.errors import OptionError
from vidret.search.fusion import Question, count_compared, make_question, rank
from vidret.search.open_index import OpenIndex
from vidret.search.placed_moments import find_placed_spans, list_events
from vidret.search.probability import ScoreStandard, load_probabilities
from vidret.search.query.clauses import AnalysedQuery
from vidret.search.query.grammar import check_events
from vidret.search.query.planning import is_read_by_another, plan
from vidret.search.sorting import fit_attribute, sort_hits
from vidret.search.video_scores import ABSENT, ROUNDING, TOLERANCE_S, VideoScores
from vidret.store.lookup import count_facets, find_cuts
from vidret.store.store import Store
from vidret.text import format_count
from vidret.types import (
    ALL_VIDEOS,
    SOURCES,
    TEXT_SOURCES,
    ComposedQuery,
    EventSpan,
    Evidence,
    Filters,
    Hit,
    LocateOptions,
    Moment,
    Query,
    SearchOptions,
    Segment,
    Source,
)
from vidret.types import Sequence as EventSequence
from vidret.video.files import may_exist, warn_missing

POOL = 200  # best videos from which kinds are picked, or which are sorted by an attribute
SEEN = 20  # best videos that count as seen before a like, unless the options list others
MAX_EVIDENCE, MIN_SHARE = 4, 0.05  # pieces of evidence that are returned, and their least share of the score

logger = logging.getLogger(__name__)
Result = TypeVar("Result", Hit, Moment)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVideo:
    """A video that a search has found, with its existing paths, and the standard of its score."""

    scores: VideoScores
    paths: tuple[str, ...]
    standard: ScoreStandard


def search(
    index: OpenIndex,
    queries: Sequence[Query],
    options: Sequence[SearchOptions],
    *,
    fold: Callable[[list[Hit]], list[Hit]],
) -> list[list[Hit]]:
    """Return the hits of several searches, without the copies that ``fold`` drops; see ``Engine.search_many``."""
    asked = [_complete(index, query, search_options) for query, search_options in zip(queries, options, strict=True)]
    planned = [
        plan(index, query, sources=search_options.sources, person=search_options.person)
        for query, search_options in asked
    ]
    return [
        _find_page(index, query, search_options, fold)
        for query, (_, search_options) in zip(planned, asked, strict=True)
    ]


def _complete(index: OpenIndex, query: Query, options: SearchOptions) -> tuple[Query, SearchOptions]:
    """Return the query to ask; the mean of the likes for an empty one, and then no results count as seen by default."""
    if isinstance(query, str) and not query.strip() and options.like:
        feedback = index.segments.read_feedback(options.like, ())
        return feedback.liked.mean(axis=0), replace(options, seen=options.seen or ())
    return query, options


def _find_page(
    index: OpenIndex, query: AnalysedQuery, options: SearchOptions, fold: Callable[[list[Hit]], list[Hit]]
) -> list[Hit]:
    """Return the hits of a page; further hits replace those that are folded as copies."""
    wanted = k = options.k + options.offset
    while True:
        hits = find_hits(index, query, replace(options, k=k, offset=0))
        unique = fold(hits) if options.copies == "fold" else hits
        if len(unique) >= wanted or len(hits) < k:
            return unique[options.offset : wanted]
        k += 2 * (wanted - len(unique))


def find_hits(index: OpenIndex, query: AnalysedQuery, options: SearchOptions) -> list[Hit]:
    """Return the best videos of a query, or the best of each kind; sorted by an attribute if one is given.

    Raises:
        VidretError: ``sort_by`` names no attribute, or it or ``at_least`` comes with a query that is not text.
    """
    attribute = None
    if options.sort_by is not None:
        attribute = fit_attribute(options.sort_by, index.encoder)
        if not query.is_text:
            raise OptionError("sort_by must come with a query of words, got an image or a vector")
    is_diverse = options.display != "best"
    is_chosen = is_diverse or attribute is not None
    question, found = find_best_videos(index, query, replace(options, k=max(POOL, options.k)) if is_chosen else options)
    hits = keep_probable([_make_hit(index, question, video) for video in found], options.at_least)
    segments = index.segments
    if attribute is not None:  # pages are parts of one order, independent of k
        vectors = segments.read_at([(hit.video, hit.time) for hit in hits[:POOL]])
        hits = sort_hits(hits[:POOL], vectors, attribute) + hits[POOL:]
    if is_diverse:
        hits = [hits[row] for row in segments.pick_kinds([(hit.video, hit.time) for hit in hits], options.k)]
    return hits[: options.k]


def find_best_videos(
    index: OpenIndex, query: AnalysedQuery, options: SearchOptions
) -> tuple[Question, list[FoundVideo]]:
    """Return the question, and the best videos with existing files.

    If the nearest segments belong to too few videos, deeper searches append further ones. Videos found first stay
    first, so that pages of results neither repeat nor lose a video.
    """
    supposed: list[tuple[int, float]] = []
    is_supposed = options.seen is None and bool(options.like or options.unlike)
    if is_supposed:
        _, plain = find_best_videos(index, query, replace(options, k=SEEN, like=(), unlike=()))
        supposed = [(video.scores.video_id, video.scores.time_s[0]) for video in plain]
    question = make_question(index, query, options, supposed=supposed)
    found: list[FoundVideo] = []
    missing: list[str] = []
    listed: set[int] = set()
    depth: int | None = min(options.candidates, max(len(index.store), 1))
    standard: ScoreStandard | None = None
    while depth is not None:
        ranked = rank(index, question, depth)
        ranked.drop(listed)
        videos = iter(ranked)
        best = list(islice(videos, 1))
        standard = standard or _make_standard(index, question, best)
        existing = _list_existing(index.store, chain(best, videos), options, listed, missing)
        found += (
            FoundVideo(scores=scores, paths=paths, standard=standard)
            for scores, paths in islice(existing, options.k - len(found))
        )
        asked = replace(question.asked, depth=depth)
        depth = index.pictures.deepen(asked, len(ranked)) if len(found) < options.k else None
    warn_missing(index.take_new_notes(missing))
    if not found and not is_supposed:  # else it has been logged already
        for note in index.take_new_notes(_describe_missing(index.store, question.asked.options.filters)):
            logger.warning("%s", note)
    return question, found


def _make_standard(index: OpenIndex, question: Question, best: Sequence[VideoScores]) -> ScoreStandard:
    """Return the standard of a query's scores, given the best; one without probabilities for images."""
    if not best or not question.query.is_text:
        return ScoreStandard()
    asked, size = question.asked, count_compared(index, question.asked)
    model = load_probabilities(index.store, asked.sources)
    num_events = len(question.query.structure.steps)
    return ScoreStandard(best=best[0].score, size=size, num_events=num_events, model=model)


def _list_existing(
    store: Store, ranked: Iterable[VideoScores], options: SearchOptions, listed: set[int], missing: list[str]
) -> Iterator[tuple[VideoScores, tuple[str, ...]]]:
    """Yield each video with its files that exist and pass the filters, best first, those of one score by path.

    Paths of missing files are added to ``missing``, and videos to ``listed``.
    """
    groups = (list(group) for _, group in groupby(ranked, key=lambda video: video.score))
    while batch := list(islice(groups, options.k)):  # their paths are read together
        video_ids = [video.video_id for group in batch for video in group]
        paths = store.files.paths_of(video_ids, options.filters)
        for group in batch:
            listed.update(video.video_id for video in group)
            for video in sorted(group, key=lambda video: paths[video.video_id]):
                existing = tuple(path for path in paths[video.video_id] if may_exist(path))
                if existing:
                    yield video, existing
                else:
                    missing += paths[video.video_id]


def list_search_notes(index: OpenIndex, query: Query, options: SearchOptions | LocateOptions) -> list[str]:
    """Return the notes that a search has logged, for clients that see no log."""
    texts = [query] if isinstance(query, str) else [query.text] if isinstance(query, ComposedQuery) else []
    texts += check_events(query) if isinstance(query, EventSequence) else []
    notes = [*_describe_missing(index.store, options.filters)]
    if not is_read_by_another(index, options.sources):
        notes += filter(None, [describe_language(index.encoder.name, texts)])
    return notes


def _describe_missing(store: Store, filters: Filters) -> Iterator[str]:
    """Yield a note if no video can be found, or if a filter names a language or sound that no video has."""
    if not len(store):
        is_missing = any(part.files.find(state="missing") for part in store.parts.values())
        missing = "the files of the index are missing: index again once they are back"
        yield missing if is_missing else "the index has no videos yet"
        return
    for what, asked, only, read in (
        ("language", filters.language, Filters(language=filters.language), attrgetter("languages")),
        ("sound", filters.heard, Filters(heard=filters.heard), attrgetter("heard")),
    ):
        if (
            asked is not None and not store.select(only).num_videos
        ):  # facets do not list all sounds, nor other spellings
            facets = (count_facets(part.snapshot(), ALL_VIDEOS) for part in store.parts.values())
            listed = sum((Counter(read(part_facets)) for part_facets in facets), Counter[str]())
            counts = (f"{name} ({format_count(num_videos, 'video')})" for name, num_videos in listed.items())
            yield f"no video has the {what} {asked}; the index has: {', '.join(counts) or 'none'}"


def _make_hit(index: OpenIndex, question: Question, found: FoundVideo) -> Hit:
    video, clauses = found.scores, range(len(question.query.structure.clauses))
    parts = [part for clause in clauses for part in _find_parts(video, clause)]
    evidence = make_evidence(parts, index.texts) if question.query.is_text else ()
    if question.presence is not None and question.presence.bare == (True,):
        video.time_s = (question.presence.find_middle(video.video_id, video.time_s[0]),)
    within_s = time_s = video.time_s[0]
    is_word = bool(evidence) and evidence[0].source != "picture" and len(clauses) == 1
    if is_word:  # words are read up to ``TOLERANCE_S`` too early
        time_s = evidence[0].start
        within_s = min(time_s + TOLERANCE_S, (time_s + evidence[0].end) / 2)
    segment = _find_segment(index.store, video, within_s)
    if is_word and segment.start <= within_s:
        time_s = max(time_s, segment.start)
    best: dict[Source, float] = {}
    for clause in clauses:
        for source, score in video.source_scores(clause).items():
            best[source] = max(best.get(source, ABSENT), score)
    why: dict[str, float] = {source: best[source] for source in SOURCES if best.get(source, ABSENT) > ABSENT}
    times = [(time, time) for time in sorted({*video.time_s, time_s})]
    events: tuple[EventSpan, ...] = ()
    if question.query.structure.is_joint:
        video.cuts = find_cuts(index.store, video.video_id)
        video.length_s = index.store.read_sizes([video.video_id])[video.video_id].seconds
        for span in find_placed_spans(video, question.query.structure, LocateOptions(k=1)):
            events = list_events(span, question.query.structure)
    return Hit(
        video=video.video_id,
        path=found.paths[0],
        segment=segment,
        time=time_s,
        score=video.score,
        probability=found.standard.rate(video.score),
        weak=found.standard.is_weak(video.score),
        copies=found.paths[1:],
        why=why | dict(video.levels) if set(why) == {"picture"} else why,
        evidence=question.add_persons(evidence, video.video_id, times),
        events=events,
    )


def _find_segment(store: Store, video: VideoScores, time_s: float) -> Segment:
    """Return the segment at a time, or the nearest one; an empty one if the video has none."""

    def measure_gap(segment: Segment) -> float:
        return max(segment.start - time_s, time_s - segment.end, 0.0)

    def read(start_s: float, end_s: float) -> Collection[Segment]:
        return store.read_segments(store.overlapping_segments([(video.video_id, start_s, end_s)])).values()

    compared = [segment for segment in video.segments if measure_gap(segment) == 0.0]
    segments = compared or read(time_s, time_s) or read(-math.inf, math.inf)
    return min(segments, key=measure_gap, default=Segment(video.video_id, 0, time_s, time_s))


def keep_probable(results: list[Result], at_least: float) -> list[Result]:
    """Return the results that have a minimum probability."""
    if at_least and any(result.probability is None for result in results):
        raise OptionError(f"at_least must be 0 for an image or a vector, got {at_least}")
    return [result for result in results if (result.probability or 0.0) >= at_least]


def make_evidence(parts: Sequence[Match], texts: TextChannel | None) -> tuple[Evidence, ...]:
    """Return the evidence of some matches, best first, with each one's share of the score; none without words."""
    if not parts or texts is None:
        return ()
    best = max(part.evidence for part in parts)
    weights = np.exp([part.evidence - best for part in parts])
    shares = weights / weights.sum()
    evidence: list[Evidence] = []
    for index in np.argsort(-shares, kind="stable")[:MAX_EVIDENCE]:
        part, share = parts[index], float(shares[index])
        if share < MIN_SHARE and evidence:
            continue
        marks = texts.mark(part) if part.text else ()
        evidence.append(
            Evidence(source=part.source, start=part.start, end=part.end, share=share, text=part.text, matches=marks)
        )
    return tuple(evidence)


def _find_parts(video: VideoScores, clause: int) -> list[Match]:
    """Return the best match of each source for a clause; with several clauses, at the time where it was placed."""
    parts = []
    is_local = len(video.time_s) > 1
    time_s = video.time_s[min(clause, len(video.time_s) - 1)]
    for source in TEXT_SOURCES:
        matches = [
            match
            for match in video.texts[clause]
            if match.source == source
            and (not is_local or match.start - TOLERANCE_S <= time_s <= match.end + TOLERANCE_S)
        ]
        if matches:
            parts.append(max(matches, key=lambda match: match.evidence))
    pictures = video.pictures[clause]
    point = int(np.abs(video.times - time_s).argmin()) if is_local else int(find_first_best(pictures, ROUNDING))
    if pictures[point] > ABSENT:
        seen = float(video.times[point])
        parts.append(Match(video.video_id, "picture", seen, seen, float(pictures[point])))
    return parts
