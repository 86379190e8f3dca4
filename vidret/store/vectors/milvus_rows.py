"""What the rows of a collection hold besides ids and vectors: the fields of filters, and the words of texts.

The fields of texts are those of the video that they are of, whose paths are in the catalog of pictures. A second table
of changes there tells which of them are out of date in the collection of texts.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from vidret.store.catalog.catalog import Catalog
from vidret.store.catalog.database import Database
from vidret.store.catalog.schema import IN_IDS, LIVE, filter_values, ids_to_json
from vidret.store.snapshots.snapshot import Choice
from vidret.store.texts.stems import Stemmer
from vidret.store.vectors.milvus_collection import PATH_BYTES, WORDS_BYTES
from vidret.store.vectors.mirror import OF_FIELDS, Fields, Mirror
from vidret.types import TEXT_SOURCES, Filters

BATCH = 1000  # videos whose changes are read together
UNKNOWN_TIME = -(2**63 - 1)  # the modification time of a file where it is unknown
SECONDS_BOUND = 1e300  # filter expressions cannot contain infinity
FILES = "FROM files JOIN videos ON videos.id = files.video"
NO_FIELDS: Fields = {"seconds": 0.0, "path": "", "changed": UNKNOWN_TIME}


class CollectionRows:
    """The rows of an index of pictures, whose catalog has all that filters use, or of texts, which have another one."""

    def __init__(
        self, catalog: Catalog, name: str, pictures: Path | None = None, *, path_bytes: int = PATH_BYTES
    ) -> None:
        """Use an open catalog and the name of a collection, whose paths have at most ``path_bytes`` bytes.

        For texts, ``pictures`` is the file of the catalog of the index that they are of.
        """
        self._catalog, self._name, self._pictures, self._path_bytes = catalog, name, pictures, path_bytes
        self.has_texts = pictures is not None
        self.mirror = Mirror(catalog.database, name, self._describe_texts if self.has_texts else self._describe)
        self._databases: dict[bool, Database] = {}  # of pictures, by whether they may be changed
        self._lock = threading.Lock()
        self._stemmer: Stemmer | None = None

    def begin(self) -> None:
        """Start the mirror; for texts, let the catalog of the pictures count changes too."""
        self.mirror.begin()
        if self.has_texts:
            self._count_fields(write=True).begin()

    def follow(self) -> None:
        """Mark the tracks of the videos that have changed in the catalog of the pictures."""
        if not self.has_texts:
            return
        fields = self._count_fields(write=True)
        while changes := fields.changes(BATCH):
            with self._catalog.database.transaction(durable=True):
                self.mirror.mark(self._find_tracks([video for video, _ in changes]))
            fields.forget(changes)

    def find_outdated(self) -> list[int]:
        """Return the tracks of the videos that have changed, all of them where this is unknown; of pictures none."""
        if not self.has_texts:
            return []
        fields = self._count_fields(write=False)
        if not fields.exists():
            return [row[0] for row in self._catalog.database.rows("SELECT track FROM tracks")]
        changes = fields.changes()
        return self._find_tracks([video for video, _ in changes]) if changes else []

    def read_words(self, ids: Sequence[int]) -> Mapping[int, str]:
        """Return the stems of texts, as the full-text index has them."""
        self._stemmer = self._stemmer or Stemmer()
        texts = self._catalog.texts.read(ids)
        stems = self._stemmer.stems([stored.text.text for stored in texts])
        words = [" ".join(own).encode()[:WORDS_BYTES].decode(errors="ignore") for own in stems]
        return {stored.id: own for stored, own in zip(texts, words, strict=True)}

    def list_conditions(self, choice: Choice) -> list[str]:
        """Return conditions on excluded videos and, of texts, on their source and on a path of their video."""
        conditions = ["content > 0"] if self.has_texts else []
        if self.has_texts and set(choice.sources) != set(TEXT_SOURCES):
            conditions.append(f"source in {[TEXT_SOURCES.index(source) for source in choice.sources]}")
        field = "content" if self.has_texts else "video"
        return conditions + ([f"{field} not in {sorted(choice.excluded)}"] if choice.excluded else [])

    def drop(self) -> None:
        """Stop the mirror, and counting in the catalog of the pictures."""
        if self.has_texts:
            self._count_fields(write=True).end()
        self.mirror.end()

    def close(self) -> None:
        """Close the catalog of the pictures."""
        for database in self._databases.values():
            database.close()
        if self._stemmer is not None:
            self._stemmer.close()
        self._databases, self._stemmer = {}, None

    def _count_fields(self, *, write: bool) -> Mirror:
        return Mirror(self._open(write=write), self._name, triggers=OF_FIELDS)

    def _open(self, *, write: bool) -> Database:
        with self._lock:
            if write not in self._databases:
                assert self._pictures is not None
                self._databases[write] = Database(self._pictures, write=write)
            return self._databases[write]

    def _find_tracks(self, videos: Sequence[int]) -> list[int]:
        """Return the tracks of videos of pictures, and those whose rows say so."""
        sql = f"SELECT CAST(fingerprint AS BLOB) FROM videos WHERE id IN {IN_IDS}"
        contents = [row[0] for row in self._open(write=False).rows(sql, ids_to_json(videos))]
        own = json.dumps([content.decode("utf-8", "replace") for content in contents])
        rows = self._catalog.database.rows(f"SELECT track FROM tracks WHERE content IN {IN_IDS}", own)
        return sorted({*self.mirror.find_pushed(videos), *(row[0] for row in rows)})

    def _describe(self, videos: Sequence[int]) -> tuple[dict[int, Fields], set[int]]:
        sql = f"SELECT video, path, mtime_ns, duration {FILES} WHERE {LIVE} AND video IN {IN_IDS} ORDER BY path"
        return describe_files(self._catalog.database.rows(sql, ids_to_json(videos)), self._path_bytes)

    def _describe_texts(self, tracks: Sequence[int]) -> tuple[dict[int, Fields], set[int]]:
        sql = (
            f"SELECT track, content, source FROM tracks JOIN files ON video = track WHERE {LIVE} AND track IN {IN_IDS}"
        )
        about: dict[int, Fields] = {}
        by_id = set()
        for track, content, source in self._catalog.database.rows(sql, ids_to_json(tracks)):
            code = TEXT_SOURCES.index(source) if source in TEXT_SOURCES else len(TEXT_SOURCES)
            about[track] = {**NO_FIELDS, "content": 0, "source": code}
            sql = f"SELECT video, path, mtime_ns, duration {FILES} WHERE {LIVE} AND fingerprint = ? ORDER BY path"
            fields, copied = describe_files(self._open(write=False).rows(sql, content))
            for video, own in fields.items():
                about[track] |= {**own, "content": video}
                by_id |= {track} if video in copied else set()
        return about, by_id


def describe_files(
    files: Sequence[tuple[int, bytes, int | None, float]], path_bytes: int = PATH_BYTES
) -> tuple[dict[int, Fields], set[int]]:
    """Return the fields of each video, and the videos with a path that these do not have.

    ``files`` are the video, the path, its modification time and the duration of each, by path.
    """
    about: dict[int, Fields] = {}
    by_id = set()
    for video, path, changed, seconds in files:
        quoted = quote(path)
        if video in about or len(quoted) > path_bytes:
            by_id.add(video)
        mtime_ns = UNKNOWN_TIME if changed is None else changed
        about.setdefault(video, {"seconds": seconds, "path": quoted[:path_bytes], "changed": mtime_ns})
    return about, by_id


def to_milvus_filter(filters: Filters, by_id: Sequence[int], without: Sequence[int]) -> str:
    """Return filters as an expression of Milvus on the fields of ``describe_files``, '' for no condition.

    Videos ``by_id`` match regardless of their fields.
    """
    folder, inside, min_seconds, max_seconds, after, before = filter_values(filters)
    conditions = []
    if folder is not None and inside is not None:
        # Every byte except letters, digits and / - . _ ~ is quoted, and 0 follows /: the range is a prefix search.
        first = quote(inside)
        conditions.append(f'(path == "{quote(folder)}" or (path >= "{first}" and path < "{first[:-1]}0"))')
    for sign, bound in ((">=", min_seconds), ("<=", max_seconds)):
        if bound is not None and not np.isnan(bound):  # NaN means no bound, as NULL does in SQLite
            conditions.append(f"seconds {sign} {float(np.clip(bound, -SECONDS_BOUND, SECONDS_BOUND))!r}")
    if after is not None:
        conditions.append(f"changed >= {after}")
    if before is not None:
        conditions.append(f"changed < {before} and changed > {UNKNOWN_TIME}")
    matching = f"({' and '.join(conditions)})"
    if conditions and by_id:
        matching = f"({matching} or video in {list(by_id)})"
    return " and ".join([*([matching] if conditions else []), *([f"video not in {list(without)}"] if without else [])])
