"""The tables of timed texts: a row per track (one source of one content, as one model read it), and a row per text.

A track is stored as a video without pictures: its segments are the texts, with their times and vectors. They are
searchable if its only path is live.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vidret.store.catalog.schema import IN_IDS, INTACT, TEXT_ROW, CheckedTables, ids_to_json
from vidret.store.records import FileState
from vidret.store.snapshots.bitmap import Ids
from vidret.types import TextSource, TimedText

DAMAGED: FileState = "pending"  # the state in which a repair leaves a track, so that it is read again from the start


@dataclass(frozen=True, slots=True)
class TextTrack:
    """One source of one content, which is named by its ``fingerprint``.

    ``until_s`` is the time up to which ``model`` has read it, ``num_texts`` the number of stored texts, and ``note``
    the reason why nothing or not everything was read, empty otherwise.
    """

    id: int
    fingerprint: str
    source: TextSource
    model: str
    complete: bool
    until_s: float
    num_texts: int
    note: str


@dataclass(frozen=True, slots=True)
class StoredText:
    """A stored text: the id of its segment, the fingerprint of its content, and the text."""

    id: int
    fingerprint: str
    text: TimedText


class TextTables:
    """The tables ``tracks`` and ``texts`` of a catalog; a damaged row is left out, with one warning."""

    def __init__(self, tables: CheckedTables) -> None:
        self._tables, self._database = tables, tables.database

    def begin_track(self, video: int, content: str, source: TextSource, model: str) -> None:
        """Make a video a track, of which nothing has been read yet."""
        with self._database.transaction():
            sql = "REPLACE INTO tracks (track, content, source, model, until_s) VALUES (?, ?, ?, ?, 0.0)"
            self._database.run(sql, video, content, source, model)
            self._tables.update_checksums("tracks", "track = ?", video)

    def set_progress(self, track_id: int, until_s: float) -> None:
        """Set the time up to which a track was read, in seconds."""
        with self._database.transaction():
            sql = f"UPDATE tracks SET until_s = ? WHERE track = ? AND {INTACT['tracks']}"
            if self._database.run(sql, float(until_s), track_id):
                self._tables.update_checksums("tracks", "track = ?", track_id)

    def tracks(self, content: str | None = None) -> list[TextTrack]:
        """Return all tracks that were not replaced or removed, or those of one content, by id."""
        stored = "iif(complete, num_segments, (SELECT count(*) FROM segments WHERE segments.video = track))"
        columns = f"track, content, source, model, complete, state, until_s, {stored}, salvaged"
        intact = f"{INTACT['tracks']} AND {INTACT['videos']} AND {INTACT['files']}"
        rows = self._database.rows(
            f"SELECT {columns}, {intact} FROM tracks JOIN videos ON videos.id = track JOIN files ON files.video = track"
            " WHERE state <> 'missing' AND (?1 IS NULL OR content = ?1) ORDER BY track",
            content,
        )
        return [_read_track(row) for row in self._tables.drop_damaged("tracks", rows)]

    def add(self, texts: Sequence[tuple[int, TimedText]]) -> None:
        """Add the texts of new segments, given with ascending ids, within the caller's transaction."""
        if texts:
            rows = [
                (key, timed.text.encode("utf-8", "surrogatepass"), round(float(timed.confidence), 4), timed.language)
                for key, timed in texts
            ]
            self._database.run_many("INSERT INTO texts (segment, text, confidence, language) VALUES (?, ?, ?, ?)", rows)
            self._tables.update_checksums("texts", "segment >= ?", texts[0][0])

    def sum_heard(self, source: TextSource) -> dict[str, dict[str, float]]:
        """Return the seconds of each known language of speech, or of each sound by name, heard in each content."""
        name = "language" if source == "speech" else "text"
        rows = self._database.rows(
            f'SELECT content, {name}, sum("end" - start) FROM texts JOIN segments ON segments.id = segment'
            f" JOIN tracks ON track = segments.video WHERE source = ? AND {name} <> ''"
            f" AND track IN (SELECT video FROM files WHERE state <> 'missing') AND {INTACT['texts']}"
            f" AND {INTACT['segments']} AND {INTACT['tracks']} GROUP BY content, {name}",
            source,
        )
        heard: dict[str, dict[str, float]] = {}
        for content, label, seconds in rows:
            heard.setdefault(content, {})[label if isinstance(label, str) else label.decode(errors="replace")] = seconds
        return heard

    def read(self, ids: Sequence[int] | Ids) -> list[StoredText]:
        """Return texts by the ids of their segments, in the given order, without deleted or damaged ones."""
        columns = 'segments.id, content, start, "end", text, source, confidence, language'
        rows = self._database.rows(
            f"SELECT {columns}, {INTACT['texts']} AND {INTACT['segments']} AND {INTACT['tracks']} FROM texts"
            f" JOIN segments ON segments.id = segment JOIN tracks ON track = segments.video WHERE segment IN {IN_IDS}",
            ids_to_json(ids),
        )
        texts = {row[0]: _read_text(row) for row in self._tables.drop_damaged("texts", rows)}
        return [texts[key] for key in map(int, ids) if key in texts]

    def read_words(self, ids: Sequence[int] | Ids) -> dict[int, str]:
        """Return the words of texts by the ids of their segments, without deleted or damaged ones."""
        rows = self._database.rows(f"SELECT {TEXT_ROW.columns} FROM texts WHERE segment IN {IN_IDS}", ids_to_json(ids))
        words: dict[int, str] = {}
        for row in rows:
            if TEXT_ROW.is_intact(row):
                words[row[0]] = row[5].decode("utf-8", "surrogatepass")
            else:
                self._tables.drop_damaged("texts", [(row[0], False)])
        return words


def _read_track(row: Sequence[Any]) -> TextTrack:
    track_id, content, source, model, complete, state, until_s, num_texts, note, _ = row
    return TextTrack(
        id=track_id,
        fingerprint=content,
        source=source,
        model=model,
        complete=bool(complete) and state != DAMAGED,
        until_s=0.0 if state == DAMAGED else until_s,
        num_texts=num_texts,
        note=note,
    )


def _read_text(row: Sequence[Any]) -> StoredText:
    segment_id, content, start_s, end_s, words, source, confidence, language, _ = row
    text = words.decode("utf-8", "surrogatepass")
    return StoredText(segment_id, content, TimedText(start_s, end_s, text, source, confidence, language))
