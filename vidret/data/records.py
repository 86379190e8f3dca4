"""What annotation files say, one record a row: frozen values, times in seconds."""

from dataclasses import dataclass

Times = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Caption:
    """A text that describes a video, or the part of it from ``start`` to ``end``.

    ``id`` is the benchmark's own name of the row, unique in its split; where it has none, ``video`` and the number of
    the row among the rows of that video, from 0: ``video7020_0``. ``video`` is the benchmark's own name of the video.
    ``domain`` is the kind of video, by which one's own captions may be told apart.
    """

    id: str
    video: str
    text: str
    start: float | None = None
    end: float | None = None
    domain: str = ""


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """A query into one video, and what people say answers it.

    ``id`` and ``video`` are as in ``Caption``. ``duration`` is None where the annotations do not say it. ``spans`` are
    (start, end), none where the labels are only per clip, or withheld. ``saliency`` holds for each labelled clip one
    number for each annotator, ``clips`` the numbers of these clips; clip n lasts from n to n + 1 times
    ``clip_seconds``, unless ``clip_spans`` says for each of ``clips`` when it is. ``domain`` is the topic that some
    benchmarks are averaged over.
    """

    id: str
    video: str
    text: str
    duration: float | None
    spans: tuple[Times, ...] = ()
    clips: tuple[int, ...] = ()
    saliency: tuple[tuple[float, ...], ...] = ()
    clip_seconds: float = 2.0
    clip_spans: tuple[Times, ...] = ()
    domain: str = ""

    @property
    def clip_times(self) -> tuple[Times, ...]:
        """Say when each of ``clips`` begins and ends."""
        length = self.clip_seconds
        return self.clip_spans or tuple((number * length, (number + 1) * length) for number in self.clips)


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a benchmark: its name, the files it was read from, the videos it is over, and its rows.

    ``videos`` is the gallery, in the benchmark's order; a video may have no row. ``notes`` say what a report must say:
    rows that were mended or left out, and by which rule.
    """

    name: str
    files: tuple[str, ...]
    videos: tuple[str, ...]
    captions: tuple[Caption, ...] = ()
    queries: tuple[LabelledQuery, ...] = ()
    notes: tuple[str, ...] = ()
