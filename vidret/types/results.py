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
        source: The source that matches.
        start: Start in seconds.
        end: End in seconds; equal to ``start`` for a single frame.
        share: Its share of the score, from 0 to 1.
        text: The matching text; empty for pictures.
        matches: The matching words in ``text``, as pairs of character offsets: start, and end (exclusive).
        person: The person of the query who is seen or heard here; empty for other evidence.
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
        start: Start in seconds.
        end: End in seconds.
        score: Evidence for this event, in nats; higher is better.
    """

    text: Annotated[str, Shown(example="a man enters")]
    start: Annotated[float, Shown(example=12.0)]
    end: Annotated[float, Shown(example=15.5)]
    score: Annotated[float, Shown(example=4.2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearCopy:
    """A video that shows the same footage as a result, and is therefore not a result of its own.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        time: Time of the footage in this video, in seconds.
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
        time: Time of the best match in seconds: a frame, or the start of a text.
        score: Evidence that the video matches, in nats (a log-likelihood ratio); higher is better.
        weak: Whether an index of this size whose best result scores this low probably (72 % or more) has no answer;
            False for images and vectors.
        copies: Other paths of the same content.
        why: The score of each source, in nats. If only pictures match, also the similarities that the ranker combines;
            after sorting by an attribute, also its strength, in standard deviations above the mean of the index.
        evidence: What matches, best first; empty in an index without words.
        events: Where each event was found, if the query has several; empty otherwise.
        probability: Probability that the video answers the query, from 0 to 1; None for images and vectors.
        near_copies: Videos with different content that show the same footage, such as in another resolution.
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
        """The probability as a word: ``likely`` from 0.7, ``unlikely`` below 0.28, else ``possible``; None without."""
        return rate_probability(self.probability)


@dataclass(frozen=True, slots=True)
class Moment:
    """A span of a video that matches a query.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        start: Start in seconds.
        end: End in seconds, after ``start``.
        score: Evidence in nats, higher is better: the score of the video for its best moment, and less for its other
            moments by what they lack to the best one.
        weak: Whether an index whose best result scores this low probably (72 % or more) has no answer; False for images
            and vectors.
        by: What found it: ``curve`` (frame similarities), ``head`` (a trained grounding head) or ``words``; ``list`` if
            a user picked it.
        similarity: Mean similarity of its frames to the query, if ``curve`` found it for a single event; None
            otherwise.
        evidence: What matches, best first; empty in an index without words.
        events: Where each event was found, if the query has several; empty otherwise.
        probability: Probability that it answers the query, from 0 to 1; None for images and vectors. Moments of a
            single named video are rated without comparison to other videos.
        near_copies: Videos with different content that show the same footage, such as in another resolution.
        note: The user's note on a moment of a list; empty for results of a search.
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
        """The probability as a word: ``likely`` from 0.7, ``unlikely`` below 0.28, else ``possible``; None without."""
        return rate_probability(self.probability)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveText:
    """A text of a video that matches a query, with its height on the curve.

    Attributes:
        source: The source of the text.
        start: Start in seconds.
        end: End in seconds.
        score: Height on the curve: the similarity of a frame that would be equally strong evidence.
        text: The text.
        matches: The matching words in ``text``, as pairs of character offsets: start, and end (exclusive).
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
        probability: Probability of this class, given that the video belongs to one of the classes; from 0 to 1.
        copies: Other paths of the same content.
    """

    video: VideoId
    path: VideoPath
    tag: Annotated[str, Shown(example="animals")]
    probability: Annotated[float, Shown(example=0.8)]
    copies: Copies = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFootage:
    """A span of a video that shows the same footage as a clip.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        start: Start of the footage in the video, in seconds.
        end: End of the footage in the video, in seconds.
        clip_start: Start of the footage in the clip, in seconds.
        clip_end: End of the footage in the clip, in seconds.
        speed: Seconds of the video per second of the clip.
        similarity: Mean similarity of the frame vectors, less that of unrelated frames.
        agreement: Correlation of the changes between decoded frames, at most 1.
        mirrored: Whether the video is mirrored left to right.
        copies: Other paths of the same content.
    """

    video: VideoId
    path: VideoPath
    start: Annotated[float, Shown(example=25.0)]
    end: Annotated[float, Shown(example=31.5)]
    clip_start: Annotated[float, Shown(example=3.0)]
    clip_end: Annotated[float, Shown(example=8.0)]
    speed: Annotated[float, Shown(example=1.0)]
    similarity: Annotated[float, Shown(example=0.6)]
    agreement: Annotated[float, Shown(example=0.95)]
    mirrored: bool = False
    copies: Copies = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedFile:
    """A file of a group of copies, compared with the best file of the group.

    Attributes:
        video: Id of the video.
        path: Path of the file.
        width: Width in pixels; 0 if unknown.
        height: Height in pixels; 0 if unknown.
        bit_rate: Bits per second of the whole file; 0 if unknown.
        duration: Duration in seconds.
        start: Start of the shared footage in this file, in seconds.
        end: End of the shared footage in this file, in seconds.
        best_start: Start of the shared footage in the best file, in seconds.
        speed: Seconds of this file per second of the best one.
        differs: How it differs from the best file: ``same content`` (byte for byte), ``mirrored``, ``cropped``,
            ``bars``, ``faster``, ``slower``, ``part`` (shows only a part of it), ``longer`` (shows other footage too),
            ``damaged``; empty if no difference was found.
        agreement: Correlation of the changes between decoded frames, at most 1; 1 for the best file and ``same
            content``.
        moves: Whether enough changes to tell the footage from another recording at the same location.
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
        name: Name given by the user; empty if there is none.
        handle: Name after an @ in queries: ``mum`` for ``@mum``.
        hidden: Whether the user hid the person.
        tracks: Number of tracks, the spans in which a face or a voice was followed.
        videos: Number of videos with a track of the person.
        seconds: Total duration of the tracks in seconds.
        best_tracks: Ids of the clearest tracks, best first.
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
    """A span of a video in which a person is seen or heard.

    Attributes:
        id: Number of the track.
        video: Id of the video.
        path: Path of its file.
        start: Start in seconds.
        end: End in seconds.
        by_user: Whether the user said who it is.
    """

    id: Annotated[int, Shown(example=12)]
    video: VideoId
    path: VideoPath
    start: Annotated[float, Shown(digits=2, example=12.0)]
    end: Annotated[float, Shown(digits=2, example=20.0)]
    by_user: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOfVideo:
    """A kind of content that videos show, with a typical moment.

    Attributes:
        video: Id of the video with the typical moment.
        path: Path of its file.
        time: Time of the typical moment in seconds.
        num_videos: Number of videos that show this kind; in a large index, of a sample.
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
        time: Time in seconds.
        x: Position from the left, from 0 to 1.
        y: Position from the top, from 0 to 1.
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
        likeness: Mean cosine similarity to the five videos most like it.
    """

    video: VideoId
    path: VideoPath
    likeness: Annotated[float, Shown(example=0.4)]
