"""Reading of on-screen text as timed text, with PP-OCR models.

A text that stays in its place is recognised by its strokes, and not read again. Frames are searched for other texts at
a resolution that suffices for moving pictures; a still picture is searched once more, at a higher one. While the whole
picture moves, every other frame is skipped: a text found in the next frame began in the skipped one if its strokes are
there. A text is tracked from frame to frame and becomes one entry; lines that come and go together become one. Dense
text is read over several frames, the largest first, so that no frame takes much longer than others.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from vidret.channels.texts.images import (
    Box,
    Extent,
    bound,
    cut,
    fit_image,
    is_cut,
    is_moving,
    is_unchanged,
    likeness,
    overlap_boxes,
    shrink,
)
from vidret.channels.texts.kind import TextKind
from vidret.channels.texts.ocr import TextModels
from vidret.types import Picture, ShotChange, TimedText

MODEL = "pp-ocrv6"
DETECTION_SIDE = 640  # pixels; longer side of the image that is searched for text, in still pictures
MOVING_SIDE = 448  # pixels; the same in moving pictures
MIN_SCORE = 0.6
MIN_SHORT_SCORE = 0.8  # for up to three characters: most misreadings of texture are that short
MIN_OVERLAP = 0.5  # intersection over union of a text's boxes in consecutive frames
MIN_LIKENESS = 0.85  # correlation of the strokes in a box that need not be read again
MIN_SAME_TEXT = 0.7  # similarity of two readings of one text
MAX_COMPARED = 200  # letters of each of them
MAX_BOXES = 300  # texts that are tracked in one frame
MAX_READ = 32  # texts that are read in one frame; the others wait
MAX_CHARACTERS = 2000  # of an entry
MAX_TRACK_S = 60.0  # longer texts become several entries, so that an interrupted run repeats little
RETRY_S = 4.0  # until a rejected text is read again, though it looks the same
MAX_MISSED = 3  # consecutive frames in which a text may go undetected
_MAX_LAG_S = 1.2  # between lines that come and go together
_GRID = (90, 160)
_CROP = (24, 192)


@dataclass(slots=True, eq=False)
class _Track:
    """A tracked text: its extent (left, top, right, bottom) relative to the frame, and the times at which it was seen.

    ``text`` is empty until it is read, from the corners in ``box``. A run that resumes at ``resume_s`` finds it in the
    same way.
    """

    extent: Extent
    box: Box
    resume_s: float
    start_s: float
    last_s: float
    crop: UInt8[np.ndarray, "height width"]
    text: str = ""
    score: float = 0.0
    end_s: float = 0.0
    missed: int = 0


class ScreenReader:
    """Reads texts from the frames of one video at a time, with its models and the texts being tracked."""

    def __init__(self) -> None:
        """Load the models.

        Raises:
            MissingExtraError: The extra ``words`` is not installed.
        """
        self._models = TextModels()
        self.start()

    def start(self, start_s: float = 0.0) -> None:
        """Begin another video, or resume where an interrupted run ended: the start of the texts in the next frame.

        ``note`` says if the last video showed more texts than were read.
        """
        self._resumed_s = start_s
        self.note = ""
        self._tracks: list[_Track] = []
        self._closed: list[_Track] = []
        self._grid: UInt8[np.ndarray, "height width"] | None = None
        self._before: tuple[Picture, float] | None = None  # the last frame, and its start
        self._is_due = False  # whether that frame still has to be searched
        self._resume_s = start_s  # start of the last frame that was searched, or showed nothing new
        self._rejected: list[_Track] = []  # rejected readings, while they look the same
        self._is_done = False  # whether the picture was searched at the higher resolution
        self._last_s: float | None = None
        self._num_crowded = self._num_unread = 0

    def read(self, image: Picture, time_s: float) -> None:
        """Read the next frame."""
        image = fit_image(image)
        previous_s = self._last_s
        self._last_s = time_s
        first_s = self._resumed_s or max(0.0, time_s - 0.5)
        middle_s = first_s if previous_s is None else (previous_s + time_s) / 2
        grid = shrink(image, _GRID)
        before = self._grid
        is_still = before is not None and is_unchanged(before, grid)
        if is_still and self._is_done:
            for track in self._tracks:
                track.last_s = track.last_s if track.missed else time_s
        else:
            is_first = before is None and not self._resumed_s  # a resumed run had a frame before
            self._grid, self._is_done = grid, is_still or is_first
            self._follow(image, time_s)
            is_due = self._is_due or any(track.last_s == previous_s for track in self._tracks)
            is_due = is_due or before is None or is_still or is_cut(before, grid) or not is_moving(before, grid)
            if is_due:
                self._search(image, time_s, middle_s)
            self._is_due = not is_due
        self._before = image, middle_s
        self._resume_s = self._resume_s if self._is_due else middle_s
        self._read_waiting(image, time_s)
        for track in self._tracks:
            track.missed = 0 if track.last_s == time_s else track.missed + 1
            track.end_s = middle_s if track.missed == 1 else track.end_s
        self._close([track for track in self._tracks if track.missed > MAX_MISSED])
        self._tracks = [track for track in self._tracks if track.missed <= MAX_MISSED]
        self._split_long(time_s, middle_s)

    def _follow(self, image: Picture, time_s: float) -> None:
        """Find the tracked texts and the recently rejected ones, by their strokes."""
        for track in self._tracks + self._rejected:
            crop = shrink(cut(image, track.extent), _CROP)
            if likeness(track.crop, crop) >= MIN_LIKENESS:
                track.last_s, track.crop = time_s, crop
        kept = [track for track in self._rejected if track.last_s == time_s]
        self._rejected = [] if self._is_done else kept

    def _search(self, image: Picture, time_s: float, middle_s: float) -> None:
        """Find other texts of a frame, and the times at which they appeared."""
        before, before_s = self._before or (image, middle_s)
        side = DETECTION_SIDE if self._is_done else MOVING_SIDE
        boxes = sorted(self._models.detect(fit_image(image, side)), key=_height, reverse=True)
        self._num_crowded += len(boxes) > MAX_BOXES
        retried = [track.extent for track in self._rejected if time_s - track.start_s >= RETRY_S]
        self._rejected = [track for track in self._rejected if time_s - track.start_s < RETRY_S]
        followed = [track.extent for track in self._tracks + self._rejected if track.last_s == time_s]
        for box in boxes[:MAX_BOXES]:
            extent = bound(box)
            if all(overlap_boxes(other, extent) < MIN_OVERLAP for other in followed):
                crop = shrink(cut(image, extent), _CROP)
                is_older = likeness(shrink(cut(before, extent), _CROP), crop) >= MIN_LIKENESS
                # A text that is read again begins now: a run resumed in the frame before would read it there.
                is_older = is_older and all(overlap_boxes(other, extent) < MIN_OVERLAP for other in retried)
                resume_s, start_s = (self._resume_s, before_s) if is_older else (middle_s, middle_s)
                self._tracks.append(_Track(extent, box, resume_s, start_s, time_s, crop))

    def _read_waiting(self, image: Picture, time_s: float) -> None:
        """Read texts that are shown and have not been read yet, the largest first."""
        waiting = [track for track in self._tracks if not track.text and track.last_s == time_s]
        for track in sorted(waiting, key=lambda track: _height(track.box), reverse=True)[:MAX_READ]:
            track.text, track.score = self._models.read(image, track.box)
            if not is_text(track.text, track.score):
                self._rejected.append(replace(track, start_s=time_s))
                self._tracks.remove(track)
                continue
            gone = [other for other in self._tracks if other.last_s < time_s and other.text]
            same = [other for other in gone if similar(other.text, track.text)]
            earlier = max(same, key=lambda other: overlap_boxes(other.extent, track.extent), default=None)
            if earlier is not None:  # it has moved, or looks different now
                best = max(earlier, track, key=lambda reading: reading.score)
                earlier.text, earlier.score = best.text, best.score
                earlier.last_s, earlier.crop, earlier.extent, earlier.box = time_s, track.crop, track.extent, track.box
                self._tracks.remove(track)

    def take(self, _end_s: float = np.inf, _shots: Sequence[ShotChange] | None = None) -> tuple[float, list[TimedText]]:
        """Return the time up to which all texts were returned, and the entries since the last call."""
        ready = [track for track in self._closed if track.end_s < (self._last_s or 0.0) - 2 * _MAX_LAG_S]
        waiting = [track for track in self._closed if track not in ready]
        waiting += [track for track in self._tracks if track.missed]
        while held := [track for track in ready if any(_come_together(track, other) for other in waiting)]:
            ready = [track for track in ready if track not in held]
            waiting += held
        self._closed = [track for track in self._closed if track not in ready]
        # A text found next may have begun in a skipped frame, or look like a rejected one.
        tracks = self._tracks + self._closed + self._rejected
        return min([self._resume_s, *(track.resume_s for track in tracks)]), join_lines(ready)

    def finish(self, end_s: float) -> list[TimedText]:
        """Return the remaining entries of a video that ends at ``end_s``. The last frame is always searched."""
        last_s = self._last_s or 0.0
        if self._is_due and self._before is not None:
            image, middle_s = self._before
            self._search(image, last_s, middle_s)
            self._read_waiting(image, last_s)
        for track in self._tracks:
            track.end_s = end_s if track.last_s == last_s else track.end_s
        self._close(self._tracks)
        texts = join_lines(self._closed)
        met = {
            f"frames with more than {MAX_BOXES} texts, of which the largest are read": self._num_crowded,
            "texts that were gone before they were read": self._num_unread,
        }
        self.start()
        self.note = "; ".join(f"{what}: {count}" for what, count in met.items() if count)
        return texts

    def _close(self, tracks: Sequence[_Track]) -> None:
        """Close tracks; those that were not read are only counted."""
        read = [track for track in tracks if track.text]
        self._closed += read
        self._num_unread += len(tracks) - len(read)

    def _split_long(self, time_s: float, middle_s: float) -> None:
        """Close tracks that are too long; those still seen continue as new ones."""
        for track in [track for track in self._tracks if track.text and time_s - track.start_s > MAX_TRACK_S]:
            self._tracks.remove(track)
            self._closed.append(replace(track, end_s=track.end_s if track.missed else middle_s))
            if not track.missed:
                self._tracks.append(replace(track, resume_s=middle_s, start_s=middle_s))


def is_text(text: str, score: float) -> bool:
    """Return whether a reading is worth keeping: texture is often read as single characters with a low score."""
    letters = re.sub(r"\W|_", "", text)
    if len(letters) < 2:
        return False
    return score >= (MIN_SHORT_SCORE if len(letters) <= 3 else MIN_SCORE)


def similar(one: str, other: str) -> bool:
    """Return whether two readings are of the same text: by their longest common subsequence."""
    from rapidfuzz.distance import LCSseq

    first, second = (re.sub(r"\W", "", text.lower())[:MAX_COMPARED] for text in (one, other))
    return 2 * LCSseq.similarity(first, second) >= MIN_SAME_TEXT * (len(first) + len(second))


def join_lines(tracks: Sequence[_Track]) -> list[TimedText]:
    """Return the entries of tracks, by start; lines below one another that come and go together are one entry."""
    groups: list[list[_Track]] = []
    for track in sorted(tracks, key=lambda track: (track.extent[1], track.extent[0])):
        group = next((group for group in groups if _continues(group, track)), None)
        if group is None:
            groups.append([track])
        else:
            group.append(track)
    return sorted((_as_text(group) for group in groups), key=lambda text: (text.start, text.end))


def _height(box: Box) -> float:
    _, top, _, bottom = bound(box)
    return bottom - top


def _continues(group: Sequence[_Track], below: _Track) -> bool:
    """Return whether a text is the next line of a group that is not too long yet."""
    above = group[-1]
    is_full = sum(len(track.text) for track in group) > MAX_CHARACTERS / 2
    if is_full or not _come_together(above, below):
        return False
    height = max(above.extent[3] - above.extent[1], below.extent[3] - below.extent[1])
    shared = min(above.extent[2], below.extent[2]) - max(above.extent[0], below.extent[0])
    return below.extent[1] - above.extent[3] < 1.5 * height and shared > 0


def _come_together(one: _Track, other: _Track) -> bool:
    """Return whether two texts come and go together."""
    return abs(one.start_s - other.start_s) <= _MAX_LAG_S and abs(one.end_s - other.end_s) <= _MAX_LAG_S


def _as_text(group: Sequence[_Track]) -> TimedText:
    start_s, end_s = min(track.start_s for track in group), max(track.end_s for track in group)
    score = float(np.mean([track.score for track in group]))
    return TimedText(start_s, max(end_s, start_s), " ".join(track.text for track in group), "screen", score)


@functools.lru_cache(maxsize=1)
def _load_reader() -> ScreenReader:
    return ScreenReader()


# Something that slides past is not a slide with text.
_MOTION = "across|along|around|away|down|into|off|out|over|past|round|through|under"
_HINT = re.compile(
    r"\b(signs?|captions?|titles?|notices?|labels?|boards?(?!\s+games?\b)|menu"
    rf"|slides?(?!\s+(?:{_MOTION})\b)|(?:on|over)\s+the\s+screen|displayed|display|text"
    r"|written|writing|posters?|banners?|headlines?|scoreboard|strip|credits?|tag|dialog|message\s+box|window\s+asking"
    r"|code|subtitles?|sheet|logo|chart)\b",
    re.IGNORECASE,
)
KIND = TextKind(
    source="screen",
    name="on-screen text",
    model=MODEL,
    packages=("openvino", "rapidocr"),
    load_frame_reader=lambda: _load_reader(),
    hint=_HINT,
    is_same=similar,
)
