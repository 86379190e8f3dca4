"""Words of one video, read in its decoding process: on-screen text, then speech, then subtitles.

On-screen text comes from the frames that are decoded for the pictures. Nothing here may harm the pictures: whatever
fails becomes the note of its source.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vidret.channels.screen import ScreenReader
from vidret.channels.speech import SAMPLE_RATE, SpeechRecogniser
from vidret.channels.subtitles import MAX_BYTES, find_language, parse_subtitles
from vidret.channels.texts.images import fit_image
from vidret.channels.texts.subtitle_tracks import read_tracks
from vidret.errors import DecodeError, UnreachableError, VidretError
from vidret.types import Picture, TextSource, TimedText
from vidret.video.audio import find_sound_end, read_audio
from vidret.video.files import read_content
from vidret.video.probe import VideoInfo
from vidret.video.reader import Reader
from vidret.video.workers import messages

READER = f"{__name__}:VideoTextReader"  # for ``DecodePool.stream``
TEXTS_AT_ONCE = 500  # in a message
MAX_PROBLEMS = 5  # in a note
MIN_BUDGET_S, BUDGET_PER_S, MAX_BUDGET_S = 600.0, 20.0, 2 * 86400.0  # of time for one source, by the video's length
_MISSING_TOLERANCE_S = 2.0
_PASSED_ON = (BrokenPipeError, UnreachableError)  # the parent is gone; the file may be read later


@functools.lru_cache(maxsize=1)
def _load_screen_reader() -> ScreenReader:
    return ScreenReader()


@functools.lru_cache(maxsize=1)
def _load_recogniser(model: str) -> SpeechRecogniser:
    return SpeechRecogniser(model)


class VideoTextReader:
    """Reads the requested sources of one video and sends what it finds. Models are kept from video to video."""

    def __init__(
        self,
        info: VideoInfo,
        request: Mapping[str, Any],
        *,
        send: Callable[[messages.Header], None],
        heartbeat: Callable[[], None],
    ) -> None:
        """Load what on-screen text needs, if it is requested.

        Args:
            info: The probed file.
            request: The options of each source by name: ``start_s``, ``segment``, ``model`` and ``sidecars``; see
                ``DecodePool.stream``.
            send: Sends a message to the parent.
            heartbeat: Called during the work.
        """
        self._info, self._request, self._send, self._heartbeat = info, request, send, heartbeat
        self._screen: ScreenReader | None = None
        self._start_s = self._last_s = self._screen_time_s = 0.0
        self._ignored_s = float("inf")
        self._budget_s = min(MIN_BUDGET_S + BUDGET_PER_S * info.duration, MAX_BUDGET_S)
        if "screen" in request:
            self._start_s = float(request["screen"]["start_s"])
            self._last_s = -1.0
            try:
                self._screen = _load_screen_reader()
                self._screen.start(self._start_s)
            except Exception as error:
                self._screen = None
                self._end("screen", _describe(error))

    # On-screen text

    @property
    def start_s(self) -> float:
        """From where on-screen text is read, in seconds."""
        return self._start_s

    @property
    def first_segment(self) -> tuple[int, float] | None:
        """The number and the start of a segment that holds that time or lies before it; None if none is known."""
        number_and_start = self._request["screen"].get("segment")
        return tuple(number_and_start) if number_and_start else None

    @contextlib.contextmanager
    def ignore_from(self, end_s: float) -> Iterator[None]:
        """Do not read frames from ``end_s`` seconds on for now."""
        self._ignored_s = end_s
        try:
            yield
        finally:
            self._ignored_s = float("inf")

    def wants_frames(self, end_s: float) -> bool:
        """Return whether on-screen text is read from the frames of a segment that ends at ``end_s`` seconds."""
        return self._screen is not None and end_s > self._start_s

    def observe(self, index: int, image: Picture) -> None:
        """Read a full-size frame, given its index in the video."""
        time_s = float(self._info.times[index])
        if self._screen is None or not self._start_s <= time_s < self._ignored_s or time_s <= self._last_s:
            return
        self._last_s = time_s
        self._heartbeat()
        started = time.monotonic()
        try:
            self._screen.read(fit_image(image), time_s)
        except Exception as error:
            self.fail_screen(error)
        self._screen_time_s += time.monotonic() - started
        if self._screen_time_s > self._budget_s:
            self._end_screen(time_s, f"only its first {time_s:.0f} s were read: {self._describe_budget()}")

    def read_stored(self, reader: Reader, indices: Sequence[int]) -> None:
        """Decode the frames of a segment that is wanted for its text alone."""
        try:
            reader.read(indices)
        except _PASSED_ON:
            raise
        except Exception as error:
            self.fail_screen(error)

    def end_segment(self) -> None:
        """Send the on-screen texts that are over."""
        if self._screen is not None:
            until_s, texts = self._screen.take()
            self._send_screen(until_s, texts)

    def finish_screen(self) -> None:
        """Send the remaining on-screen texts."""
        self._end_screen(self._info.duration, "")

    def _end_screen(self, end_s: float, note: str) -> None:
        """Send the remaining on-screen texts of frames up to ``end_s`` seconds, and read no more."""
        if self._screen is not None:
            self._send_screen(end_s, self._screen.finish(end_s))
            self._end("screen", "; ".join(each for each in (note, self._screen.note) if each))
            self._screen = None

    def _send_screen(self, until_s: float, texts: Iterable[TimedText]) -> None:
        self._send_texts("screen", max(until_s, self._start_s), list(texts))

    def fail_screen(self, error: Exception) -> None:
        """Abandon on-screen text because of an error; errors that are no fault of the text are raised."""
        if isinstance(error, _PASSED_ON):
            raise error
        if self._screen is not None:
            self._screen = None
            self._end("screen", _describe(error))

    # Speech and subtitles

    def read_rest(self) -> None:
        """Read speech and subtitles, as far as they are requested."""
        sources: dict[TextSource, Callable[[Callable[[], None]], str]] = {
            "speech": self._read_speech,
            "subtitles": self._read_subtitles,
        }
        for source, read in sources.items():
            if source in self._request:
                try:
                    note = read(self._make_heartbeat())
                except _PASSED_ON:
                    raise
                except Exception as error:
                    note = _describe(error)
                self._end(source, note)

    def _make_heartbeat(self) -> Callable[[], None]:
        """Return the heartbeat of a source, which raises VidretError once the time for it is over."""
        end_s = time.monotonic() + self._budget_s

        def heartbeat() -> None:
            if time.monotonic() > end_s:
                raise VidretError(f"not all was read: {self._describe_budget()}")
            self._heartbeat()

        return heartbeat

    def _describe_budget(self) -> str:
        return f"it would take longer than the {self._budget_s:.0f} s that a video of this length may"

    def _read_speech(self, heartbeat: Callable[[], None]) -> str:
        start_s = float(self._request["speech"]["start_s"])
        pieces = read_audio(self._info.path, SAMPLE_RATE, start_s=start_s, heartbeat=heartbeat)
        first = next(pieces, None)
        if first is None:
            return self._describe_sound(start_s)
        recogniser = _load_recogniser(self._request["speech"]["model"])
        audio, until_s = _trim(first, pieces, start_s), start_s
        for until_s, texts in recogniser.transcribe(audio, start_s=max(first[0], start_s), heartbeat=heartbeat):
            self._send_texts("speech", until_s, texts)
        return self._describe_sound(until_s)

    def _describe_sound(self, until_s: float) -> str:
        """Return a note if the sound ends before the pictures and before its declared end, as in a damaged file."""
        if until_s > self._info.duration - _MISSING_TOLERANCE_S:
            return ""
        end_s = find_sound_end(self._info.path)
        is_short = until_s < end_s - _MISSING_TOLERANCE_S
        return f"only {until_s:.0f} s of {end_s:.0f} s of sound could be read" if is_short else ""

    def _read_subtitles(self, heartbeat: Callable[[], None]) -> str:
        end_s = self._info.duration
        found = read_tracks(self._info.path, heartbeat, video_end_s=end_s)
        texts, problems = found.texts, found.problems
        for path in self._request["subtitles"].get("sidecars", ()):
            heartbeat()
            name = os.path.basename(path)  # noqa: PTH119
            try:
                content, suffix = read_content(path, MAX_BYTES), Path(name).suffix.lower()
                parsed = parse_subtitles(content, suffix, language=find_language(name), video_end_s=end_s)
            except VidretError as error:
                problems.append(f"{name}: {_describe(error)}")
                continue
            texts = texts + parsed.texts
            problems += [f"{name}: {problem}" for problem in parsed.problems]
        # A file beside the video often repeats a track inside it.
        unique = {(text.text, round(text.start, 1), round(text.end, 1)): text for text in reversed(texts)}
        ordered = sorted(unique.values(), key=lambda text: (text.start, text.end))
        self._send_texts("subtitles", self._info.duration, ordered)
        more = f"and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        return "; ".join([*problems[:MAX_PROBLEMS], *([more] if more else [])])

    def _send_texts(self, source: TextSource, until_s: float, texts: Sequence[TimedText]) -> None:
        for start in range(0, max(1, len(texts)), TEXTS_AT_ONCE):
            rows = [
                (text.start, text.end, text.text, text.confidence, text.language)
                for text in texts[start : start + TEXTS_AT_ONCE]
            ]
            self._send({"kind": "texts", "source": source, "until_s": until_s, "texts": rows})

    def _end(self, source: TextSource, note: str) -> None:
        self._send({"kind": "texts_end", "source": source, "note": note})


def _trim(
    first: tuple[float, Float32[np.ndarray, " sample"]],
    pieces: Iterator[tuple[float, Float32[np.ndarray, " sample"]]],
    start_s: float,
) -> Iterator[Float32[np.ndarray, " sample"]]:
    """Yield the samples from ``start_s`` on, so that a resumed run cuts its blocks where the last one would have."""
    begin_s, samples = first
    num_before = max(0, round((start_s - begin_s) * SAMPLE_RATE))
    return chain([samples[num_before:]], (samples for _, samples in pieces))


def _describe(error: Exception) -> str:
    """Return the reason of a failure in one line."""
    if isinstance(error, DecodeError):
        return error.reason
    if isinstance(error, MemoryError):
        return "needs more memory than a decoder may take"
    line = (str(error).splitlines() or [""])[0]
    return line if isinstance(error, VidretError) and line else f"failed: {type(error).__name__}: {line}"
