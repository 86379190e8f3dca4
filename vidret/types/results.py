"""Results: hits and moments with their evidence, shared footage and copies, persons, and results of browsing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from vidret.types.media import Segment, Source, TextSource
from vidret.types.rows import Shown, show_property

Likelihood = Literal["likely", "possible", "unlikely"]
LIKELY, UNLIKELY = 0.7, 0.28  # probabilities from which on a result is likely, and below which it is unlikely

VideoId = Annotated[int, Shown(mcp=True, example=7)]
VideoPath = Annotated[str, Shown(mcp=True, column=1, holds="path", limit=300, example="/videos/beach.mp4")]
Copies = Annotated[tuple[str, ...], Shown(holds="path")]


def rate_probability(probability: float | None) -> Likelihood | None:
    """Return the word for a probability; None without one.

    >>> rate_probability(0.9), rate_probability(0.5), rate_probability(0.1)
    ('likely', 'possible', 'unlikely')
    """
    if probability is None:
        return None
    return "likely" if probability >= LIKELY else "unlikely" if probability < UNLIKELY else "possible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A part of a video that matches a query, in one source.

    Attributes:
        source: Where it was found.
        start: In seconds.
        end: In seconds.
        share: Its share of the score, in 0..1.
        text: The words; empty for a picture.
        matches: Start and end of the matching words in ``text``, in characters.
        person: The person of the query who is seen or heard then; empty for other evidence.
    """

    source: Annotated[Source, Shown(mcp=True)]
    start: Annotated[float, Shown(mcp=True, digits=2, example=28.0)]
    end: Annotated[float, Shown(mcp=True, digits=2, example=31.5)]
    share: Annotated[float, Shown(example=0.9)]
    text: Annotated[str, Shown(mcp=True, limit=160, example="press one to record")] = ""
    matches: tuple[tuple[int, int], ...] = ()
    person: Annotated[str, Shown(example="mum", is_sparse=True)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpan:
    """The span in which one event of a query was found in a video.

    Attributes:
        text: The event, as it was searched for.
        start: In seconds.
        end: In seconds.
        score: In standard deviations above what unrelated queries reach.
    """

    text: Annotated[str, Shown(example="a man enters")]
    start: Annotated[float, Shown(example=12.0)]
    end: Annotated[float, Shown(example=15.5)]
    score: Annotated[float, Shown(example=4.2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearCopy:
    """A video that shows the footage of a result, so it is not a result itself.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        time: Where the footage that was found is in it, in seconds.
    """

    video: VideoId
    path: VideoPath
    time: Annotated[float, Shown(mcp=True, digits=2, example=30.5)]


FoundCopies = Annotated[tuple[NearCopy, ...], Shown(is_sparse=True)]
FoundEvidence = Annotated[tuple[Evidence, ...], Shown(mcp=True, limit=3, is_sparse=True)]
FoundEvents = Annotated[tuple[EventSpan, ...], Shown(is_sparse=True)]
Probability = Annotated[float | None, Shown(mcp=True, column=5, digits=3, example=0.82)]
LIKELIHOOD = Shown(mcp=True, column=6, example="likely")


@dataclass(frozen=True, slots=True)
class Hit:
    """A video that matches a query.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        segment: Its best segment.
        time: Time of the best frame in seconds.
        score: Evidence in nats, the logarithm of a likelihood ratio; higher is better.
        weak: Whether it is unlikely that an answer scores no higher, in an index of this size.
        copies: Further paths of the same content.
        why: Evidence of each source, and, where pictures are compared with nothing else, the levels of the ranker; and
            how much it has of the attribute that results are sorted by, in standard deviations above the index's mean.
        evidence: What matches, best first; empty in an index without words.
        events: Where each event of a query of several was found; empty for all others.
        probability: How likely the video answers the query, in 0..1; None for images and vectors.
        near_copies: Videos of other content that show the same footage, such as in another resolution.
    """

    video: VideoId
    path: VideoPath
    segment: Annotated[Segment, Shown(names={"video": "video", "number": "segment", "start": "start", "end": "end"})]
    time: Annotated[float, Shown(mcp=True, digits=2, example=30.5)]
    score: Annotated[float, Shown(example=5.4)]
    weak: bool = False
    copies: Copies = ()
    why: Annotated[Mapping[str, float], Shown(example={"picture": 5.4, "frames": 0.31})] = field(default_factory=dict)
    evidence: FoundEvidence = ()
    events: FoundEvents = ()
    probability: Probability = None
    near_copies: FoundCopies = ()

    @property
    @show_property(LIKELIHOOD)
    def likelihood(self) -> Likelihood | None:
        """Its probability as a word."""
        return rate_probability(self.probability)


@dataclass(frozen=True, slots=True)
class Moment:
    """A span of a video that matches a query.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        start: In seconds; less than ``end``.
        end: In seconds.
        score: Evidence in nats, as of ``Hit``, for the best moment of a video; of others as much less as they match or
            stand out less, for ``head`` the logarithm of how much less probable they are.
        weak: Whether it is unlikely that an answer scores no higher; never more probable than 28 %.
        by: ``curve`` (training-free), ``head`` (a trained grounding head), ``words``, or ``list``: somebody picked it.
        similarity: Mean of the curve inside the span, for ``curve`` and one event; None otherwise.
        evidence: What matches, best first; empty in an index without words.
        events: As in ``Hit``.
        probability: How likely it answers the query: as of ``Hit`` for the best moment of a video, less for others; a
            video that was named is judged by itself.
        near_copies: As in ``Hit``.
        note: What somebody wrote about a moment of a list; empty for what a search finds.
    """

    video: VideoId
    path: VideoPath
    start: Annotated[float, Shown(mcp=True, column=2, digits=2, example=25.0)]
    end: Annotated[float, Shown(mcp=True, column=3, digits=2, example=31.5)]
    score: Annotated[float, Shown(column=4, example=5.4)]
    weak: bool = False
    by: Annotated[str, Shown(column=7, example="curve")] = "curve"
    similarity: Annotated[float | None, Shown(column=8, example=0.27)] = None
    evidence: FoundEvidence = ()
    events: FoundEvents = ()
    probability: Probability = None
    near_copies: FoundCopies = ()
    note: Annotated[str, Shown(column=9, is_sparse=True)] = ""

    @property
    @show_property(LIKELIHOOD)
    def likelihood(self) -> Likelihood | None:
        """Its probability as a word."""
        return rate_probability(self.probability)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveText:
    """Words of a video that match a query, with their height in its curve.

    Attributes:
        source: Where they were found.
        start: In seconds.
        end: In seconds.
        score: The similarity of a frame that would speak for the query as much.
        text: The words.
        matches: As in ``Evidence``.
    """

    source: TextSource
    start: float
    end: float
    score: float
    text: str
    matches: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedVideo:
    """A video and the class that it most probably belongs to.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        tag: Name of the class.
        probability: Probability that it belongs to this class, if it belongs to one of them.
        copies: Further paths of the same content.
    """

    video: VideoId
    path: VideoPath
    tag: Annotated[str, Shown(example="animals")]
    probability: Annotated[float, Shown(example=0.8)]
    copies: Copies = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFootage:
    """A stretch of a video that shows the same footage as a clip.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        start: Where the footage begins in the video, in seconds.
        end: Where it ends.
        clip_start: Where it begins in the clip, in seconds.
        clip_end: Where it ends.
        speed: Seconds of the video per second of the clip.
        similarity: Mean similarity of the frame vectors above that of unrelated frames.
        agreement: How well decoded frames agree in what moves, at most 1; None if they could not be compared.
        mirrored: Whether the pictures are mirrored left to right.
        moves: Whether enough moves to tell the footage from another recording of the same place.
        copies: Further paths of the same content.
    """

    video: VideoId
    path: VideoPath
    start: Annotated[float, Shown(example=25.0)]
    end: Annotated[float, Shown(example=31.5)]
    clip_start: Annotated[float, Shown(example=3.0)]
    clip_end: Annotated[float, Shown(example=8.0)]
    speed: Annotated[float, Shown(example=1.0)]
    similarity: Annotated[float, Shown(example=0.6)]
    agreement: Annotated[float | None, Shown(example=0.95)] = None
    mirrored: bool = False
    moves: bool = True
    copies: Copies = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedFile:
    """A file of a group of copies, compared with the best file of the group.

    Attributes:
        video: Id of its video.
        path: Its path.
        width: Of the picture in pixels; 0 if unknown.
        height: The same.
        bit_rate: Bits per second of the whole file; 0 if unknown.
        duration: In seconds.
        start: Where the footage of the best file begins in this file, in seconds.
        end: Where it ends.
        best_start: Where the shared footage begins in the best file.
        speed: Seconds of this file per second of the best one.
        differs: How it differs: ``same content``, ``mirrored``, ``cropped``, ``bars``, ``faster``, ``slower``,
            ``part`` of the best file, ``longer`` by other footage, ``damaged``; empty if it only looks the same.
        agreement: How well decoded frames agree in what moves, at most 1; 1 for the best file and the same content.
        moves: False if too little moves to tell the footage from another recording of the same place.
    """

    video: VideoId
    path: VideoPath
    width: Annotated[int, Shown(example=1920)]
    height: Annotated[int, Shown(example=1080)]
    bit_rate: Annotated[int, Shown(example=4_000_000)]
    duration: Annotated[float, Shown(example=90.0)]
    start: Annotated[float, Shown(example=0.0)]
    end: Annotated[float, Shown(example=90.0)]
    best_start: Annotated[float, Shown(example=0.0)]
    speed: Annotated[float, Shown(example=1.0)] = 1.0
    differs: Annotated[tuple[str, ...], Shown(example=["mirrored"])] = ()
    agreement: Annotated[float, Shown(example=0.95)] = 1.0
    moves: bool = True


@dataclass(frozen=True, slots=True)
class CopyGroup:
    """Files that show the same footage, the best one first.

    Whole files are better than damaged ones, then long ones; then resolution and bit rate decide. A file
    that shows only a part of the best one is in the group as its ``part``, not as a copy.
    """

    files: tuple[CopiedFile, ...]

    @property
    def best(self) -> CopiedFile:
        """The best file: undamaged, among the longest, with the largest picture, and then the highest bit rate."""
        return self.files[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who is seen or heard in the videos of an index.

    Attributes:
        id: Number of the person.
        name: Name that the user gave; empty without one.
        handle: What stands for the person after an @ in a query.
        hidden: Whether the user hid the person.
        tracks: Number of stretches in which a face or a voice was followed.
        videos: Number of videos.
        seconds: Their length together.
        best_tracks: Ids of the tracks that show the person best.
    """

    id: Annotated[int, Shown(example=7)]
    name: Annotated[str, Shown(example="Mum")]
    handle: Annotated[str, Shown(example="mum")]
    hidden: bool
    tracks: Annotated[int, Shown(example=12)]
    videos: Annotated[int, Shown(example=3)]
    seconds: Annotated[float, Shown(example=95.5)]
    best_tracks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonTrack:
    """A stretch of a video in which a person is seen or heard.

    Attributes:
        id: Number of the track.
        video: Id of the video.
        path: Path of its file.
        start: In seconds.
        end: In seconds.
        by_user: Whether the user said whose it is.
    """

    id: Annotated[int, Shown(example=12)]
    video: VideoId
    path: VideoPath
    start: Annotated[float, Shown(digits=2, example=12.0)]
    end: Annotated[float, Shown(digits=2, example=20.0)]
    by_user: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOfVideo:
    """A kind of content that videos show, with its most typical moment.

    Attributes:
        video: Id of the video with the most typical moment.
        path: Path of its file.
        time: That moment, in seconds.
        num_videos: Number of videos that show this kind, among those that were looked at.
    """

    video: VideoId
    path: VideoPath
    time: Annotated[float, Shown(example=30.5)]
    num_videos: Annotated[int, Shown(example=12)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedMoment:
    """A moment on a map of an index.

    Attributes:
        video: Id of the video.
        time: In seconds.
        x: From the left, in 0..1.
        y: From the top, in 0..1.
    """

    video: VideoId
    time: Annotated[float, Shown(example=30.5)]
    x: Annotated[float, Shown(example=0.25)]
    y: Annotated[float, Shown(example=0.5)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusualVideo:
    """A video that is unlike most others of its index.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        likeness: Mean cosine with the videos that it resembles most.
    """

    video: VideoId
    path: VideoPath
    likeness: Annotated[float, Shown(example=0.4)]
