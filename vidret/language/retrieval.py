"""The moments that may answer a question: those of several queries united, widened and ordered in time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

from vidret.errors import OptionError, VidretError
from vidret.language.endpoint import ChatEndpoint, ReplyCache
from vidret.language.questions import QueryPlan, RetrievalQuery, plan_queries, plan_with_model
from vidret.store.records import StoredVideo
from vidret.text import file_name, sanitize, strip_query
from vidret.types import (
    Hit,
    Likelihood,
    LocateOptions,
    Moment,
    Query,
    SearchOptions,
    Shot,
    Shown,
    TextSource,
    TimedText,
    VideoName,
    rate_probability,
    show_property,
)
from vidret.types.options import Option
from vidret.types.results import LIKELIHOOD, Probability, VideoId, VideoPath

RANK_OFFSET = 1  # of reciprocal rank fusion; small, so that two low ranks do not outweigh a first one
TRUST = 0.4  # exponent of a moment's probability, which weights its rank: channels differ in certainty
MIN_PROBABILITY = 1e-3
VIDEOS_PER_QUERY, MOMENTS_PER_QUERY = 10, 60
LINE_LENGTH = 400  # characters of one text
LARGE_OVERLAP = 0.5  # share of the shorter of two stretches, from which on both show the same
Span = tuple[float, float]  # start and end in seconds
DrawFrame = Callable[[StoredVideo, float, int], bytes]  # video, time in seconds, width in pixels: a JPEG


class QuestionEngine(Protocol):
    """The part of an engine that questions need; ``Engine`` and ``RemoteEngine`` have it."""

    def search_with(self, query: Query, options: SearchOptions) -> list[Hit]:
        """Return videos, best first."""

    def locate_with(self, query: Query, options: LocateOptions, *, video: VideoName | None = None) -> list[Moment]:
        """Return moments, best first."""

    def transcript(self, video: VideoName, sources: Sequence[TextSource] | None = None) -> list[TimedText]:
        """Return what is said and shown in a video."""

    def shots(self, video: VideoName) -> list[Shot]:
        """Return the shots of a video by time."""

    def video(self, video: int) -> StoredVideo:
        """Return a video by its id."""


def _limit(text: str, minimum: int | None = None, maximum: int | None = None) -> Option:
    """Return an HTTP option with its limits."""
    return Option(help=text, panel=None, minimum=minimum, maximum=maximum)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """How much is retrieved; limits are those of HTTP.

    If what the queries of ``llm_queries`` find shows no answer, the model writes others in a further request.
    """

    moments: Annotated[int, _limit("Maximum number of moments.", 1, 20)] = 5
    max_s: Annotated[float, _limit("Maximum duration of a moment in seconds, margins included.", 1, 60)] = 12.0
    margin_s: Annotated[float, _limit("Seconds added before and after each moment, within its shot.", 0, 30)] = 2.0
    frames: Annotated[int, _limit("Number of frames of each moment.", 0, 8)] = 2
    width: Annotated[int, _limit("Maximum width of a frame in pixels.", 32, 1280)] = 512
    characters: Annotated[
        int, _limit("Maximum characters of what is said and shown, in all moments together.", 0, 100_000)
    ] = 12_000
    llm_queries: Annotated[bool, _limit("Whether the model also writes queries, in one request more.")] = True

    def __post_init__(self) -> None:
        if not 1 <= self.moments <= 50:
            raise OptionError(f"moments must be between 1 and 50, got {self.moments}")
        if not self.max_s > 0 or self.margin_s < 0:
            raise OptionError(f"max_s must be positive and margin_s not negative, got {self.max_s}, {self.margin_s}")
        if not 0 <= self.frames <= 8:
            raise OptionError(f"frames must be between 0 and 8, got {self.frames}")


DEFAULT_CONTEXT = ContextOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextMoment:
    """A moment that may answer a question.

    Attributes:
        number: Number by which answers cite the moment.
        video: Id of the video.
        path: Path of its file.
        start: Start in seconds.
        end: End in seconds.
        probability: Probability that it answers the query that found it best, from 0 to 1; None if unknown.
        lines: What is said and shown in it.
        frames: Its frames: time in seconds, and JPEG.
    """

    number: Annotated[int, Shown(example=1)]
    video: VideoId
    path: VideoPath
    start: Annotated[float, Shown(example=42.0)]
    end: Annotated[float, Shown(example=50.5)]
    probability: Probability = None
    lines: tuple[TimedText, ...] = ()
    frames: Annotated[tuple[tuple[float, bytes], ...], Shown(everywhere=False)] = ()

    @property
    def name(self) -> str:
        """The printable name of the file."""
        return sanitize(file_name(self.path))

    @property
    @show_property(LIKELIHOOD)
    def likelihood(self) -> Likelihood | None:
        """The probability as a word: ``likely`` from 0.7, ``unlikely`` below 0.28, else ``possible``; None without."""
        return rate_probability(self.probability)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionContext:
    """What was retrieved for a question, by video and time; ``notes`` say what could not be read."""

    question: str
    queries: tuple[RetrievalQuery, ...]
    moments: tuple[ContextMoment, ...]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Candidate:
    video: int
    path: str
    start: float
    end: float
    score: float
    probability: float | None


def gather_context(
    engine: QuestionEngine,
    question: str,
    videos: Sequence[VideoName] = (),
    options: ContextOptions = DEFAULT_CONTEXT,
    *,
    plan: QueryPlan | None = None,
    draw: DrawFrame | None = None,
    known: Sequence[ContextMoment] = (),
) -> QuestionContext:
    """Retrieve the moments that may answer a question. No model is asked.

    Args:
        engine: The index.
        question: In English.
        videos: Paths or ids of the videos to look in; none for all.
        options: How much is retrieved.
        plan: The queries of the question; None for those by rules.
        draw: Draws the frames; None for none.
        known: Moments that were retrieved before: only others are returned, numbered after them.

    Raises:
        VidretError: The question is invalid, or a video is not in the index.
    """
    plan = plan or QueryPlan(queries=tuple(plan_queries(question)))
    queries, notes = plan.queries, list(plan.notes)
    candidates, further = list[_Candidate](), list[_Candidate]()
    for index, query in enumerate(queries):
        try:
            firsts, others = _locate(engine, query, videos)
        except VidretError as error:
            if index == 0:
                raise
            if not query.is_asked:
                continue
            where = f"in {', '.join(query.sources)}" if query.sources else f"for {query.text!r}"
            notes.append(f"not searched {where}: {error}")
            continue
        _unite(candidates, firsts, query.weight, options)
        _unite(further, others, query.weight, options)
    for group in (candidates, further):
        group.sort(key=lambda candidate: -candidate.score)
    best = _choose(engine, candidates + further, options, known)
    first = {moment.video: index for index, moment in reversed(list(enumerate(best)))}
    ordered = sorted(best, key=lambda moment: (first[moment.video], moment.start))
    characters_left, moments = options.characters, []
    for moment_number, unnumbered in enumerate(ordered, start=1 + len(known)):
        moment = replace(unnumbered, number=moment_number)
        lines, characters_left = _read_lines(engine, moment, characters_left)
        moments.append(replace(moment, lines=lines))
    context = QuestionContext(question=question, queries=queries, moments=tuple(moments), notes=tuple(notes))
    return context if draw is None else draw_frames(engine, context, options, draw)


def make_rounds(
    question: str, options: ContextOptions, llm: ChatEndpoint, cache: ReplyCache, gather: Callable[..., QuestionContext]
) -> tuple[QuestionContext, Callable[[QuestionContext], QuestionContext] | None]:
    """Return the context of a question, and the function that retrieves more if it shows no answer; None without.

    The model writes queries for both rounds; without ``llm_queries`` there is one round. ``gather`` is
    ``gather_context`` of an index; it gets ``plan`` and ``known``.

    Raises:
        VidretError: As in ``gather_context``; or there is no endpoint.
    """
    if not isinstance(llm, ChatEndpoint):
        raise OptionError(f"llm must be a ChatEndpoint, got {llm!r:.60}")
    if not options.llm_queries:
        return gather(), None

    def find_more(first: QuestionContext) -> QuestionContext:
        return gather(plan=plan_with_model(question, llm, cache, tried=first.queries), known=first.moments)

    return gather(plan=plan_with_model(question, llm, cache)), find_more


def _locate(
    engine: QuestionEngine, query: RetrievalQuery, videos: Sequence[VideoName]
) -> tuple[list[Moment], list[Moment]]:
    """Return the best moment of each video, in the order of a search, and then the others, best first.

    A search compares videos, and locating compares moments: the best moments of one video would hide other videos.
    """
    options = LocateOptions(k=MOMENTS_PER_QUERY, weak=True, sources=query.sources, videos=VIDEOS_PER_QUERY)
    if videos:
        named = dict.fromkeys(videos)  # one that is named twice counts once
        moments = [moment for video in named for moment in engine.locate_with(query.text, options, video=video)]
        moments.sort(key=lambda moment: -moment.score)
        ranks: dict[int, int] = {}
    else:
        moments = engine.locate_with(query.text, options)
        hits = engine.search_with(query.text, SearchOptions(k=VIDEOS_PER_QUERY, sources=query.sources))
        ranks = {hit.video: rank for rank, hit in enumerate(hits)}
    best: dict[int, Moment] = {}
    for moment in moments:
        best.setdefault(moment.video, moment)
    firsts = sorted(best.values(), key=lambda moment: ranks.get(moment.video, len(ranks)))
    return firsts, [moment for moment in moments if best[moment.video] is not moment]


def _unite(candidates: list[_Candidate], found: Sequence[Moment], weight: float, options: ContextOptions) -> None:
    """Add the moments of one query by reciprocal rank fusion, weighted by how likely they answer it.

    Overlapping moments are joined if the result is not longer than ``max_s``.
    """
    for rank, moment in enumerate(found, start=1):
        probability = 1.0 if moment.probability is None else max(moment.probability, MIN_PROBABILITY)
        score = weight * probability**TRUST / (RANK_OFFSET + rank)
        start, end = _shorten(moment, options.max_s)
        for other in candidates:
            joined = min(other.start, start), max(other.end, end)
            apart = max(other.start, start) - min(other.end, end)
            if other.video == moment.video and apart <= 0 and joined[1] - joined[0] <= options.max_s:
                other.start, other.end = joined
                probabilities = [
                    probability for probability in (other.probability, moment.probability) if probability is not None
                ]
                other.probability = max(probabilities, default=None)
                other.score += score
                break
        else:
            candidates.append(_Candidate(moment.video, moment.path, start, end, score, moment.probability))


def _shorten(moment: Moment, max_s: float) -> tuple[float, float]:
    """Return the span of a moment, of at most ``max_s`` around its best evidence or its middle."""
    if moment.end - moment.start <= max_s:
        return moment.start, moment.end
    centre = (moment.start + moment.end) / 2
    if moment.evidence:
        centre = (moment.evidence[0].start + moment.evidence[0].end) / 2
    start = min(max(centre - max_s / 2, moment.start), moment.end - max_s)
    return start, start + max_s


def _choose(
    engine: QuestionEngine, ranked: Sequence[_Candidate], options: ContextOptions, known: Sequence[ContextMoment]
) -> list[ContextMoment]:
    """Return the best moments, widened; one that largely overlaps a better or known one is left out."""
    chosen: list[ContextMoment] = []
    for candidate in ranked:
        duration_s = max(engine.video(candidate.video).duration, candidate.end)
        shots, margin_s, max_s = engine.shots(candidate.video), options.margin_s, options.max_s
        start, end = widen_span((candidate.start, candidate.end), shots, duration_s, margin_s=margin_s, max_s=max_s)
        shown = ((one.start, one.end) for one in (*known, *chosen) if one.video == candidate.video)
        if any(overlap_largely((start, end), span) for span in shown):
            continue
        probability = candidate.probability
        chosen.append(
            ContextMoment(
                number=0, video=candidate.video, path=candidate.path, start=start, end=end, probability=probability
            )
        )
        if len(chosen) == options.moments:
            break
    return chosen


def _read_lines(engine: QuestionEngine, moment: ContextMoment, left: int) -> tuple[tuple[TimedText, ...], int]:
    """Return the timed texts in a moment, and the number of characters left for the next ones."""
    lines = []
    texts = [text for text in engine.transcript(moment.video) if text.end > moment.start and text.start < moment.end]
    for text in sorted(texts, key=lambda text: (text.start, text.end)):
        words = sanitize(" ".join(text.text[: 4 * LINE_LENGTH].split()))[: min(LINE_LENGTH, left)]
        if not words:
            continue
        left -= len(words)
        lines.append(replace(text, text=words))
    return tuple(lines), left


def draw_frames(
    engine: QuestionEngine, context: QuestionContext, options: ContextOptions, draw: DrawFrame
) -> QuestionContext:
    """Return a context with frames in the middles of equal parts of each moment; missing frames are noted."""
    notes, moments = list(context.notes), []
    for moment in context.moments:
        frames = []
        for time_s in spread_times(moment.start, moment.end, options.frames):
            try:
                frames.append((time_s, draw(engine.video(moment.video), time_s, options.width)))
            except VidretError as error:
                reason = sanitize(strip_query(str(error)))
                notes.append(f"moment {moment.number} has no frame at {time_s:.1f} s: {reason}")
                break
        moments.append(replace(moment, frames=tuple(frames)))
    return replace(context, moments=tuple(moments), notes=tuple(notes))


def widen_span(span: Span, shots: Sequence[Shot], duration_s: float, *, margin_s: float, max_s: float) -> Span:
    """Return a span with ``margin_s`` more on both sides, or to the ends of its shots, whichever is further.

    It stays within the video. If ``max_s`` does not allow all of it, both sides grow by the same, and a side that needs
    less leaves the rest to the other. A span that is longer than ``max_s`` is returned as it is.
    """
    start, end = span
    first = max((shot.start for shot in shots if shot.start <= start), default=start)
    last = min((shot.end for shot in shots if shot.end >= end), default=end)
    before = start - max(0.0, min(first, start - margin_s))
    after = min(duration_s, max(last, end + margin_s)) - end
    left_s = max_s - (end - start)
    if left_s <= 0:
        return span
    before, after = min(before, max(left_s / 2, left_s - after)), min(after, max(left_s / 2, left_s - before))
    return start - before, end + max(0.0, after)


def overlap_largely(one: Span, other: Span) -> bool:
    """Return whether two stretches of a video have half of the shorter one in common.

    >>> overlap_largely((0.0, 10.0), (4.0, 16.0)), overlap_largely((0.0, 10.0), (6.0, 16.0))
    (True, False)
    """
    common = min(one[1], other[1]) - max(one[0], other[0])
    return common > LARGE_OVERLAP * min(one[1] - one[0], other[1] - other[0])


def spread_times(start: float, end: float, count: int) -> list[float]:
    """Return the middles of ``count`` equal parts of a stretch.

    >>> spread_times(0.0, 12.0, 3)
    [2.0, 6.0, 10.0]
    """
    return [start + (index + 0.5) * (end - start) / count for index in range(count)]
