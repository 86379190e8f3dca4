"""Reading of a video's texts, faces and voices in its decoding process: from decoded frames, audio, and the file.

A failure never affects the pictures: it becomes the note of its kind.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32

from vidret.channels.registry import KINDS
from vidret.channels.texts.kind import AudioReader, FrameReader, Heartbeat, WindowReader, as_note
from vidret.errors import DecodeError, UnreachableError, VidretError
from vidret.store.identities.tracks import pack_track
from vidret.types import Picture, ShotChange, TextSource, TimedText
from vidret.video.probe import VideoInfo
from vidret.video.reader import Reader
from vidret.video.workers import messages

READER = f"{__name__}:VideoTextReader"  # for ``DecodePool.stream``
SAMPLE_RATE = 16_000  # of audio
TEXTS_AT_ONCE = 500  # in a message
MIN_BUDGET_S, BUDGET_PER_S, MAX_BUDGET_S = 600.0, 20.0, 2 * 86400.0  # time for one kind, by the video's length
_PASSED_ON = (BrokenPipeError, UnreachableError)  # the parent is gone; the file may be read later


@dataclass(slots=True, eq=False)
class _Watcher:
    """The reader of one kind of texts, or of faces, from frames from ``start_s`` on."""

    reader: FrameReader[Any]
    start_s: float
    last_s: float = -1.0
    spent_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Listener:
    """The reader of one kind of texts or voices from audio: it has read to ``heard_s``, and sent all to ``until_s``."""

    reader: AudioReader[Any]
    until_s: float
    heard_s: float


class VideoTextReader:
    """Reads the requested texts, and faces, of one video and sends them. Models stay loaded from video to video."""

    def __init__(
        self,
        info: VideoInfo,
        request: messages.ReadRequest,
        *,
        send: Callable[[messages.Header], None],
        heartbeat: Heartbeat,
    ) -> None:
        """Load the requested readers of frames.

        Args:
            info: The probed file.
            request: The options of each kind: ``start_s``, ``segment`` for one that is read from frames, ``model``,
                ``digest`` and ``sidecars``; see ``DecodePool.stream``.
            send: Sends a message to the parent.
            heartbeat: Called regularly during the work.
        """
        self._info, self._request, self._send, self._heartbeat = info, request, send, heartbeat
        self._watchers: dict[messages.ReadSource, _Watcher] = {}
        self._listeners: dict[messages.ReadSource, _Listener] = {}
        self._ignored_s = float("inf")
        self._budget_s = min(MIN_BUDGET_S + BUDGET_PER_S * info.duration, MAX_BUDGET_S)
        for source, options in request.items():
            load, _ = _find_loaders(source, options)
            if load is not None:
                with self._attempt(source):
                    self._watchers[source] = watcher = _Watcher(load(), float(options["start_s"]))
                    watcher.reader.start(watcher.start_s)

    # From frames

    @property
    def first_segment(self) -> tuple[int, float] | None:
        """The number and the start of a segment at or before where reading begins; None if none is known."""
        segments = [self._request[source].get("segment") for source in self._watchers]
        return min((tuple(segment) for segment in segments if segment), default=None) if all(segments) else None

    @contextlib.contextmanager
    def ignore_from(self, end_s: float) -> Iterator[None]:
        """Ignore frames from ``end_s`` seconds on inside the context."""
        self._ignored_s = end_s
        try:
            yield
        finally:
            self._ignored_s = float("inf")

    def wants_frames(self, end_s: float) -> bool:
        """Return whether the frames of a segment that ends at ``end_s`` seconds are read."""
        return any(end_s > watcher.start_s for watcher in self._watchers.values())

    def observe(self, index: int, image: Picture) -> None:
        """Read a full-size frame, given its index in the video."""
        time_s = float(self._info.times[index])
        for source, watcher in list(self._watchers.items()):
            if not watcher.start_s <= time_s < self._ignored_s or time_s <= watcher.last_s:
                continue
            watcher.last_s = time_s
            self._heartbeat()
            started = time.monotonic()
            with self._attempt(source):
                watcher.reader.read(image, time_s)
            watcher.spent_s += time.monotonic() - started
            if watcher.spent_s > self._budget_s:
                self._finish(source, time_s, f"only its first {time_s:.0f} s were read: {self._describe_budget()}")

    def read_stored(self, reader: Reader, indices: Sequence[int]) -> None:
        """Decode and read the frames of a segment that is needed for its texts only."""
        try:
            reader.read(indices)
        except Exception as error:
            self.fail_frames(error)

    def end_segment(self, end_s: float, shots: Sequence[ShotChange] | None) -> None:
        """Send the texts finished by the end of a segment, given its shot changes, or None if they are not detected."""
        for source, watcher in list(self._watchers.items()):
            with self._attempt(source):
                until_s, pieces = watcher.reader.take(end_s, shots)
                self._send_pieces(source, max(until_s, watcher.start_s), pieces)

    def finish_frames(self) -> None:
        """Send the remaining texts of frames."""
        for source in list(self._watchers):
            self._finish(source, self._info.duration, "")

    def fail_frames(self, error: Exception) -> None:
        """Abandon all sources read from frames because of an error; raise it if it is not their fault."""
        if isinstance(error, _PASSED_ON):
            raise error
        for source in list(self._watchers):
            self._fail(source, error)

    def _finish(self, source: messages.ReadSource, end_s: float, note: str) -> None:
        """Send the remaining texts of a source up to ``end_s`` seconds, and stop reading it."""
        watcher = self._watchers.pop(source, None)
        if watcher is not None:
            with self._attempt(source):
                pieces = watcher.reader.finish(end_s)
                self._send_pieces(source, max(end_s, watcher.start_s), pieces)
                self._end(source, "; ".join(filter(None, (note, watcher.reader.note))))

    def _send_pieces(self, source: messages.ReadSource, until_s: float, pieces: Sequence[Any]) -> None:
        if source == "face" or source == "voice":
            self._send({"kind": "tracks", "source": source, "tracks": [pack_track(track) for track in pieces]})
        else:
            self._send_texts(source, until_s, pieces)

    @contextlib.contextmanager
    def _attempt(self, source: messages.ReadSource) -> Iterator[None]:
        """Read a source inside the context; an error ends this source only."""
        try:
            yield
        except Exception as error:
            self._fail(source, error)

    def _fail(self, source: messages.ReadSource, error: Exception) -> None:
        """Stop reading a source because of an error; raise it if it is not the source's fault."""
        if isinstance(error, _PASSED_ON):
            raise error
        self._watchers.pop(source, None)
        self._listeners.pop(source, None)
        self._end(source, as_note(error))

    # From the file

    def read_rest(self) -> None:
        """Read the requested sources that are not read from frames."""
        self._read_audio()
        for source, kind in KINDS.items():
            if kind.read is not None and source in self._request:
                with self._attempt(kind.source):
                    texts, note = kind.read(self._info, self._request[kind.source], self._make_heartbeat())
                    self._send_texts(kind.source, self._info.duration, texts)
                    self._end(kind.source, note)

    def _read_audio(self) -> None:
        """Decode the audio once for all readers, each from where it needs it."""
        from vidret.video.audio import read_audio

        for source, options in self._request.items():
            _, load = _find_loaders(source, options)
            if load is not None:
                with self._attempt(source):
                    reader, start_s = load(), float(options["start_s"])
                    first_s = reader.start(start_s, {**options, "video": self._info}, self._make_heartbeat())
                    self._listeners[source] = _Listener(reader, start_s, first_s)
        if not self._listeners:
            return
        note, is_silent = "", False  # a video whose sound cannot be decoded has no voices
        end_s = min(listener.heard_s for listener in self._listeners.values())
        heartbeat = self._make_heartbeat(2)  # the readers of audio may take as long
        try:
            for time_s, samples in read_audio(
                self._info.path,
                SAMPLE_RATE,
                start_s=end_s,
                heartbeat=heartbeat,
                section_offsets_s=self._info.section_offsets_s,
            ):
                gap = max(0, round((time_s - end_s) * SAMPLE_RATE))  # audio that begins later is preceded by silence
                end_s = time_s + len(samples) / SAMPLE_RATE
                self._listen(time_s - gap / SAMPLE_RATE, np.pad(samples, (gap, 0)) if gap else samples)
        except _PASSED_ON:
            raise
        except Exception as error:
            note, is_silent = as_note(error), isinstance(error, DecodeError)
        for source, listener in list(self._listeners.items()):
            with self._attempt(source):
                pieces = listener.reader.finish(self._info, self._make_heartbeat())
                self._send_windows(source, listener)
                self._send_pieces(source, max(self._info.duration, listener.until_s), pieces)
                self._end(source, "" if source == "voice" and is_silent else note or listener.reader.note)

    def _listen(self, time_s: float, samples: Float32[np.ndarray, " sample"]) -> None:
        """Pass the next samples to the readers of audio, and send their results."""
        end_s = time_s + len(samples) / SAMPLE_RATE
        for source, listener in list(self._listeners.items()):
            if end_s > listener.heard_s:
                with self._attempt(source):
                    listener.reader.read(samples[max(0, round((listener.heard_s - time_s) * SAMPLE_RATE)) :])
                    listener.heard_s = end_s
                    until_s, pieces = listener.reader.take()
                    self._send_windows(source, listener)
                    if pieces or until_s > listener.until_s:
                        listener.until_s = max(until_s, listener.until_s)
                        self._send_pieces(source, listener.until_s, pieces)

    def _send_windows(self, source: messages.ReadSource, listener: _Listener) -> None:
        """Send the windows that a listener made, before the texts that record how far it has read."""
        if isinstance(listener.reader, WindowReader):
            header: messages.Header = {"kind": "texts", "source": source, "until_s": listener.until_s, "texts": []}
            for model, windows in listener.reader.take_windows().items():
                self._send({**header, "windows": messages.pack_windows(windows), "window_model": model})

    def _make_heartbeat(self, num_budgets: int = 1) -> Heartbeat:
        """Return the heartbeat of a kind, which raises VidretError once the time for it is over."""
        end_s = time.monotonic() + num_budgets * self._budget_s

        def heartbeat() -> None:
            if time.monotonic() > end_s:
                raise VidretError(f"not all was read: {self._describe_budget()}")
            self._heartbeat()

        return heartbeat

    def _describe_budget(self) -> str:
        return f"it would take longer than the {self._budget_s:.0f} s that a video of this length may"

    def _send_texts(self, source: TextSource, until_s: float, texts: Sequence[TimedText]) -> None:
        for start in range(0, max(1, len(texts)), TEXTS_AT_ONCE):
            rows = [
                (text.start, text.end, text.text, text.confidence, text.language)
                for text in texts[start : start + TEXTS_AT_ONCE]
            ]
            self._send({"kind": "texts", "source": source, "until_s": until_s, "texts": rows})

    def _end(self, source: messages.ReadSource, note: str) -> None:
        self._send({"kind": "source_end", "source": source, "note": note})


def _find_loaders(
    source: messages.ReadSource, options: Mapping[str, Any]
) -> tuple[Callable[[], FrameReader[Any]] | None, Callable[[], AudioReader[Any]] | None]:
    """Return the loaders of a source's readers of frames and of audio; both None if it is read from the file."""
    if source == "face":
        return partial(_load_face_reader, options["model"], options["digest"]), None
    if source == "voice":
        return None, partial(_load_voice_reader, options["model"], options["digest"])
    return KINDS[source].load_frame_reader, KINDS[source].load_audio_reader


def _load_face_reader(name: str, digest: str) -> FrameReader[Any]:
    from vidret.channels.people.reading import FaceReader, load_face_model

    model = load_face_model(name)
    _check_digest(model.name, digest)
    return FaceReader(model)


def _load_voice_reader(name: str, digest: str) -> AudioReader[Any]:
    from vidret.channels.voices.encoder import load_voice_encoder  # imports torch, which other readers do not need
    from vidret.channels.voices.reading import VoiceReader

    encoder = load_voice_encoder(name)
    _check_digest(encoder.digest, digest)
    return VoiceReader(encoder)


def _check_digest(actual: str, wanted: str) -> None:
    if actual != wanted:
        raise VidretError(f"the model must be {wanted} on every machine of the run, got {actual}")
