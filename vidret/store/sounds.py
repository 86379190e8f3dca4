"""The sounds of an index: vectors of audio windows of its videos, in one file.

The file exists only in an index in which sounds were read. Videos are named by the fingerprint of their content.
"""

import math
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from typing_extensions import override

from vidret.errors import StoreError
from vidret.store.catalog.database import REPAIR, remove_database
from vidret.store.side_database import SideDatabase
from vidret.store.texts.store import TextStore
from vidret.types import SoundWindows

FILE = "sounds.sqlite"
SCHEMA = """CREATE TABLE windows (
    content TEXT NOT NULL, model TEXT NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL, vector BLOB NOT NULL,
    checksum INTEGER NOT NULL, UNIQUE (content, model, start_s))"""
CHECKSUM = "crc('dd', start_s, end_s, vector, CAST(content AS BLOB), CAST(model AS BLOB))"
INTACT = f"ifnull(checksum = {CHECKSUM}, 0)"


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """Counts of one model: its windows, and the videos that have them."""

    model: str
    windows: int
    videos: int


class SoundStore(SideDatabase):
    """The windows of one index."""

    FILE, SCHEMA, CONTENTS = FILE, (SCHEMA,), "SELECT DISTINCT content FROM windows"
    ABSENT = "no sounds were read in this index; to read them: vidret index PATH --sounds on"

    def list_models(self) -> list[tuple[str, str]]:
        """Return the contents that have windows, with the models that made them."""
        return self.database.rows("SELECT DISTINCT content, model FROM windows ORDER BY content, model")

    def find_ends(self) -> list[tuple[str, str, float]]:
        """Return each content and model with intact windows, and the end of these in seconds."""
        return self.database.rows(
            f"SELECT content, model, max(end_s) FROM windows WHERE {INTACT} GROUP BY content, model"
        )

    def read(self, model: str, contents: Collection[str] | None = None) -> dict[str, SoundWindows]:
        """Return the intact windows of a model by content and time, of some contents or of all."""
        sql = f"SELECT content, start_s, end_s, vector FROM windows WHERE model = ? AND {INTACT}"
        if contents is None:
            rows = self.database.rows(f"{sql} ORDER BY content, start_s", model)
        else:
            rows = [row for content in contents for row in self.database.rows(f"{sql} AND content = ?", model, content)]
        grouped: dict[str, list[tuple[float, float, bytes]]] = {}
        for content, *window in sorted(rows, key=lambda row: row[:2]):
            grouped.setdefault(content, []).append((window[0], window[1], window[2]))
        return {content: _stack(windows) for content, windows in grouped.items()}

    def add(self, content: str, model: str, windows: SoundWindows) -> None:
        """Add windows, replacing those of another model of the same kind, and those with the same starts.

        Models chosen by the user and the bundled one are different kinds; see ``is_chosen``.
        """
        rows = [
            (content, model, float(start), float(end), vector.tobytes())
            for start, end, vector in zip(windows.starts, windows.ends, windows.vectors, strict=True)
        ]
        with self.database.transaction():
            others = "model <> ? AND (instr(model, ':') > 0) = (instr(?, ':') > 0)"
            self.database.run(f"DELETE FROM windows WHERE content = ? AND {others}", content, model, model)
            self.database.run_many("REPLACE INTO windows VALUES (?, ?, ?, ?, ?, 0)", rows)
            self.database.run(f"UPDATE windows SET checksum = {CHECKSUM} WHERE content = ? AND checksum = 0", content)

    def keep(self, content: str, *models: str) -> None:
        """Delete the windows of a content that other models made."""
        others = f"model NOT IN ({', '.join('?' * len(models))})"
        with self.database.transaction():
            self.database.run(f"DELETE FROM windows WHERE content = ? AND {others}", content, *models)

    @override
    def delete_contents(self, contents: Sequence[str]) -> None:
        with self.database.transaction():
            self.database.run_many("DELETE FROM windows WHERE content = ?", [(content,) for content in contents])


def _stack(rows: Sequence[tuple[float, float, bytes]]) -> SoundWindows:
    return SoundWindows(
        starts=np.array([start for start, _, _ in rows]),
        ends=np.array([end for _, end, _ in rows]),
        vectors=np.stack([np.frombuffer(blob, np.float16) for _, _, blob in rows]),
    )


def is_chosen(model: str) -> bool:
    """Return whether the user chose a model: its name then has a colon, unlike that of the bundled one."""
    return ":" in model


def count_windows(index: Path) -> list[WindowCounts]:
    """Return the counts of each model; empty for an index without sounds."""
    if not SoundStore.exists(index):
        return []
    with SoundStore.open(index) as sounds:
        sql = "SELECT model, count(*), count(DISTINCT content) FROM windows GROUP BY model ORDER BY model"
        return [WindowCounts(*row) for row in sounds.database.rows(sql)]


def copy_sounds(target: Path, sources: Sequence[Path], wanted: Container[str]) -> None:
    """Copy the windows of wanted videos that reach further than those of the target, which may be incomplete."""
    for target_store, source in SoundStore.pair(target, sources):
        known = {(content, is_chosen(model)): end_s for content, model, end_s in target_store.find_ends()}
        for content, model, end_s in source.find_ends():
            if content in wanted and end_s > known.get((content, is_chosen(model)), -math.inf):
                target_store.add(content, model, source.read(model, [content])[content])


def find_damaged_sounds(index: Path, *, repair: bool) -> list[str]:
    """Verify the sounds of an index; return the damage. ``repair`` deletes it, for the next run to read again."""
    path = index / FILE
    if not path.exists():
        return []
    try:
        with SoundStore.open(index, write=repair) as sounds:
            if (damage := sounds.database.value("PRAGMA integrity_check(1)")) != "ok":  # rows may not be deleted
                raise StoreError(f"{path}: {damage}")
            columns = "rowid, content, printf('%g', start_s)"  # which may be no number
            bad = sounds.database.rows(f"SELECT {columns} FROM windows WHERE NOT {INTACT}")
            if repair and bad:
                with sounds.database.transaction():
                    sounds.database.run_many("DELETE FROM windows WHERE rowid = ?", [(row,) for row, _, _ in bad])
                _read_again(index, {content for _, content, _ in bad})
            return [
                f"{path}: the window of {content} at {start_s} s is damaged (checksum)" for _, content, start_s in bad
            ]
    except StoreError as error:
        if repair:
            remove_database(path)
            _read_again(index, None)
        return [str(error).removesuffix(f"; {REPAIR}")]


def _read_again(index: Path, contents: Container[str] | None) -> None:
    """Mark the sounds of some contents, or of all, for the next run to read again."""
    if TextStore.exists(index):
        with TextStore.open(index, write=True) as texts:
            for track in texts.tracks():
                if track.source == "sound" and (contents is None or track.fingerprint in contents):
                    texts.restart(track)
