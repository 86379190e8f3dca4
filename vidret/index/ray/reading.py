"""One content to rows, in a decoding task: its segments and words, from the first of its files that can be read."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vidret.channels.texts.reading import READER
from vidret.errors import ChangedError, DecodeError, UnreachableError
from vidret.index.ray.rows import (
    ContentFinished,
    ContentTask,
    DecodedRow,
    FileFailed,
    Row,
    SegmentInfo,
    TextPosition,
    TextsRow,
)
from vidret.index.stages import find_fault
from vidret.types import TextSource
from vidret.video.identity import Identity, check_unchanged
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Finished, FinishedTexts, OpenedVideo, ReadTexts, SegmentStart, WordsRequest
from vidret.video.workers.pool import DecodePool


class ContentReader:
    """Reads one content, and remembers what was sent of it, so that nothing is sent twice when a file fails."""

    def __init__(self, content: ContentTask, pool: DecodePool, should_stop: Callable[[], bool]) -> None:
        """Read nothing yet; ``should_stop`` is called before each message is sent."""
        self._content, self._pool, self._should_stop = content, pool, should_stop
        self._sent: set[int] = set()
        self._sent_until: SegmentStart | None = None
        self._has_pictures = content.has_pictures
        self._has_begun_words = self._is_decoding = False  # of the file that is being read
        request: WordsRequest = {} if content.words is None else content.words.request
        self._options: dict[TextSource, Mapping[str, Any]] = dict(request)  # of the sources that are not finished
        self._positions = {source: TextPosition(float(options["start_s"])) for source, options in request.items()}
        self._duration_s = 0.0

    def read(self) -> Iterator[Row]:
        """Yield the rows of the content until it is complete, all its files have failed, or the run stops."""
        for (job_index, path), stamp in zip(self._content.files, self._content.stamps, strict=True):
            identity, self._has_begun_words = Identity(self._content.fingerprint, stamp), False
            while True:
                try:
                    yield from self._read_file(job_index, path, identity)
                    return
                except DecodeError as error:
                    source = self._find_fault(error)
                    if source is None:
                        yield FileFailed(self._content.content_index, job_index, error, self._spares(error)), b""
                        break
                    yield self._pack_texts(FinishedTexts(source, error.reason))
                    if self._has_pictures and not self._options:
                        return

    def _find_fault(self, error: DecodeError) -> TextSource | None:
        """Return the source of words to give up, so that the file can be read without it; None if the file fails."""
        if isinstance(error, (ChangedError, UnreachableError)) or not self._has_begun_words:
            return None
        return find_fault(self._options, is_decoding=self._is_decoding)

    def _spares(self, error: DecodeError) -> bool:
        """Return whether the pictures of a file that failed are stored all the same."""
        return self._content.has_pictures or (self._has_pictures and not isinstance(error, ChangedError))

    def _read_file(self, job_index: int, path: str, identity: Identity) -> Iterator[Row]:
        """Yield the rows of one file that are still missing.

        Raises:
            DecodeError: The file cannot be read.
        """
        opened, since = None, time.monotonic()
        self._is_decoding = True
        for message in self._pool.stream(
            path, skip=self._skip, start=self._start, words=self._begin_words, words_reader=READER
        ):
            if self._should_stop():
                return
            identity = check_unchanged(path, identity)
            match message:
                case OpenedVideo():
                    opened, self._duration_s = message, message.duration
                case DecodedSegment():
                    assert opened is not None
                    yield self._pack_segment(job_index, opened, message, time.monotonic() - since)
                    since = time.monotonic()
                case Finished():
                    assert opened is not None
                    self._is_decoding = False
                    if not self._has_pictures:
                        self._has_pictures = True
                        yield self._finish(job_index, opened, message.salvaged)
                case ReadTexts() | FinishedTexts():
                    yield self._pack_texts(message)
                    since = time.monotonic()

    def _skip(self, opened: OpenedVideo) -> set[int]:
        """Return the segments of an opened file that need not be decoded."""
        if self._has_pictures:
            return {number for number, _, _ in opened.cuts}
        has_same_segments = len(opened.cuts) == self._content.num_segments
        return self._sent | self._content.stored if has_same_segments else self._sent

    def _start(self, opened: OpenedVideo) -> SegmentStart | None:
        """Return the number and the start of the first segment to decode; None if the pictures are complete."""
        return None if self._has_pictures else self._sent_until or self._content.start or (0, opened.start)

    def _begin_words(self, _opened: OpenedVideo) -> WordsRequest:
        """Return the words to read of an opened file: a copy, since sources finish while it is read."""
        self._has_begun_words = True
        return dict(self._options)

    def _pack_segment(self, job_index: int, opened: OpenedVideo, decoded: DecodedSegment, seconds: float) -> Row:
        segment = SegmentInfo(
            content_index=self._content.content_index,
            job_index=job_index,
            opened=opened,
            number=decoded.number,
            start=decoded.start,
            end=decoded.end,
            shots=decoded.shots,
            seconds=seconds,
        )
        self._sent.add(decoded.number)
        self._sent_until = decoded.number + 1, decoded.end
        return DecodedRow.pack(segment, decoded.frames)

    def _finish(self, job_index: int, opened: OpenedVideo, salvaged: str) -> Row:
        return ContentFinished(self._content.content_index, job_index, opened, salvaged, len(self._sent)), b""

    def _pack_texts(self, message: ReadTexts | FinishedTexts) -> Row:
        source = message.source
        row = TextsRow(self._content.content_index, self._positions[source], message, self._duration_s)
        if isinstance(message, ReadTexts):
            self._positions[source] = self._positions[source].advance(message.until_s)
            self._options[source] = {**self._options[source], "start_s": self._positions[source].until_s}
        else:
            del self._options[source]
        return row, b""
