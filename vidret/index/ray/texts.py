"""Store the words that workers send, each source of a content in the order in which it was read."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from vidret.encode.sentences import DIM
from vidret.index.ray.rows import ContentTask, TextPosition, TextsRow
from vidret.index.words import ContentWords, WordsRun
from vidret.types import TextSource
from vidret.video.pool import ReadTexts

Waiting = list[tuple[TextsRow, bytes]]


class TextsWriter:
    """Stores words that arrive in any order and with repetitions.

    A track remembers up to where it was read, and the next run goes on from there. So a message waits until all that
    come before it are stored: whenever the run is killed, nothing is left out. What is repeated changes nothing, since
    the store knows its texts.
    """

    def __init__(self, words: WordsRun | None, contents: Sequence[ContentTask]) -> None:
        """Expect words of these contents, which are numbered in order."""
        self._words, self._contents = words, contents
        self._reading: dict[int, ContentWords] = {}  # by content
        self._finished: set[int] = set()
        self._positions: dict[tuple[int, TextSource], TextPosition] = {}
        self._waiting: defaultdict[tuple[int, TextSource], Waiting] = defaultdict(list)

    def write(self, row: TextsRow, vectors: Any) -> bool:
        """Store a message, with all that waited for it; return whether it was the last one of its content."""
        if row.content_index in self._finished:
            return False
        key = row.content_index, row.message.source
        reading = self._begin(row)
        waiting = self._waiting[key]
        waiting.append((row, bytes(vectors)))
        waiting.sort(key=lambda each: (each[0].start, not isinstance(each[0].message, ReadTexts)))
        while waiting and waiting[0][0].start <= self._positions[key]:
            next_row, data = waiting.pop(0)
            self._store(reading, next_row, data)
        if reading.remaining:
            return False
        self._finished.add(row.content_index)
        del self._reading[row.content_index]
        return True

    def _begin(self, row: TextsRow) -> ContentWords:
        """Begin to store the words of a content, or go on."""
        content_index = row.content_index
        if content_index not in self._reading:
            task = self._contents[content_index].words
            assert self._words is not None
            assert task is not None
            self._reading[content_index] = self._words.begin(task.fingerprint, task.paths, row.duration_s)
            self._reading[content_index].request()
            for source, options in task.request.items():
                self._positions[content_index, source] = TextPosition(float(options["start_s"]))
        return self._reading[content_index]

    def _store(self, reading: ContentWords, row: TextsRow, data: bytes) -> None:
        message, key = row.message, (row.content_index, row.message.source)
        if message.source not in reading.remaining:
            return
        if isinstance(message, ReadTexts):
            reading.add(message, np.frombuffer(data, np.float32).reshape(-1, DIM))
            self._positions[key] = max(self._positions[key], row.start.advance(message.until_s))
        else:
            reading.finish(message.source, message.note)
