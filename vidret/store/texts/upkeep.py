"""Upkeep of the timed texts of an index: counts, notes, transcripts with speakers, verification and repair."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vidret.errors import OptionError, StoreError, check_list
from vidret.store.catalog.database import NEW_INDEX, REPAIR, remove_database
from vidret.store.catalog.facts import LIST_BYTES
from vidret.store.catalog.texts import TextTrack
from vidret.store.catalog.videos import rank_path
from vidret.store.folder import FEATURES
from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import TrackColumns
from vidret.store.records import HAS_TEXTS, HEARD, LANGUAGES, SEPARATORS
from vidret.store.store import Store
from vidret.store.texts.index import TextIndex
from vidret.store.texts.joined import open_texts
from vidret.store.texts.store import FOLDER, INDEX, TextCounts, TextStore
from vidret.text import format_count, sanitize
from vidret.types import TEXT_SOURCES, TextSource, TimedText

MIN_HEARD = 0.1  # least share of the speech for a language to be listed


@dataclass(frozen=True, slots=True)
class TextNote:
    """The reason why one source of a file was not read, or not completely."""

    path: str
    source: TextSource
    reason: str


def count_texts(index: str | os.PathLike[str]) -> list[TextCounts]:
    """Return the counts of each source that an index has; empty for an index without texts."""
    if not TextStore.exists(index):
        return []
    with TextStore.open(index) as texts:
        return texts.count()


def list_notes(store: Store) -> list[TextNote]:
    """Return the notes of all tracks, by the first path of their content; contents without a path are left out."""
    if not TextStore.exists(store.path):
        return []
    contents = store.videos.fingerprints()
    paths: dict[str, list[str]] = defaultdict(list)
    for record in store.files.find():
        if record.video in contents:
            paths[contents[record.video]].append(record.path)
    with TextStore.open(store.path) as texts:
        noted = [track for track in texts.tracks() if track.note and track.fingerprint in paths]
    notes = [TextNote(min(paths[track.fingerprint], key=rank_path), track.source, track.note) for track in noted]
    return sorted(notes, key=lambda note: (note.path, note.source))


WORDS = tuple(source for source in TEXT_SOURCES if source != "sound")  # the default sources of a transcript


def read_transcript(
    store: Store, video_id: int, sources: Sequence[TextSource] | None = None, *, unnamed: bool = False
) -> list[TimedText]:
    """Return the texts of a video by time, of all sources but sounds by default, with the names of speakers.

    ``unnamed`` also labels speakers without a name.

    Raises:
        VidretError: There is no such source or video.
    """
    check_list("sources", sources or ())
    for source in sources or ():
        if source not in TEXT_SOURCES:
            raise OptionError(f"sources must be of {', '.join(TEXT_SOURCES)}, got {source}")
    fingerprint = store.videos.get(video_id).fingerprint
    opened = open_texts(store)
    if opened is None:
        return []
    with opened as texts:
        tracks: dict[TextSource, TextTrack] = {}
        for track in texts.tracks(fingerprint):
            old = tracks.setdefault(track.source, track)
            tracks[track.source] = max(old, track, key=lambda track: (track.complete, track.until_s))
        wanted = [track for source, track in tracks.items() if source in (sources or WORDS)]
        timed_texts = [stored.text for track in wanted for stored in texts.transcript(track)]
    named = name_speakers([part.path for part in store.parts.values()], fingerprint, timed_texts, unnamed=unnamed)
    return sorted(named, key=lambda text: (text.start, text.end))


def list_read_sources(store: Store, video_id: int) -> list[TextSource]:
    """Return the sources that were read of a video, whether or not they have words."""
    opened = open_texts(store)
    if opened is None:
        return []
    with opened as texts:
        return [track.source for track in texts.tracks(store.videos.get(video_id).fingerprint)]


SPOKEN: tuple[TextSource, ...] = ("speech", "subtitles")


def name_speakers(
    indexes: Iterable[Path], content: str, texts: Sequence[TimedText], *, unnamed: bool = False
) -> list[TimedText]:
    """Return the texts of a video with their speakers, from the first index, by folder, that has its voices.

    ``unnamed`` labels speakers without a name, such as ``person-7``.
    """
    for index in indexes:
        if not IdentityStore.exists(index):
            continue
        with IdentityStore.open(index) as identities:
            voices = identities.columns(kind="voice", content=content)
            persons = identities.database.rows("SELECT id, name FROM persons")
        if len(voices.ids):
            names = {key: name or (f"person-{key}" if unnamed else "") for key, name in persons}
            return [replace(text, speaker=names.get(_find_speaker(text, voices), "")) for text in texts]
    return list(texts)


def _find_speaker(text: TimedText, voices: TrackColumns) -> int:
    """Return the person who is heard longest during a text; 0 if that is not a known person."""
    if text.source not in SPOKEN:
        return 0
    heard_s = np.minimum(voices.ends, text.end) - np.maximum(voices.starts, text.start)
    persons, rows = np.unique(voices.persons, return_inverse=True)
    sums_s = np.bincount(rows, weights=np.maximum(heard_s, 0.0))
    return int(persons[sums_s.argmax()]) if sums_s.max() > 0 else 0


def note_heard(store: Store) -> None:
    """Update the facts of each video that list the languages and the sounds heard in it."""
    if not TextStore.exists(store.path):
        return
    with TextStore.open(store.path) as texts:
        heard = {LANGUAGES: texts.store.texts.sum_heard("speech"), HEARD: texts.store.texts.sum_heard("sound")}
    changed: dict[str, dict[int, str]] = {}
    for name, seconds_by_content in heard.items():
        for fingerprint, (video_id, noted) in store.videos.read_fact(name).items():
            listed = list_heard(name, seconds_by_content.get(fingerprint, {}))
            if listed != noted:
                changed.setdefault(name, {})[video_id] = listed
    if changed:
        with Store.open(store.path, write=True) as opened:
            for name, values in changed.items():
                opened.videos.note_fact(name, values)


def list_heard(name: str, seconds: Mapping[str, float]) -> str:
    """Return the fact that lists languages or sounds, longest heard first, up to its maximum size."""
    least_s = MIN_HEARD * sum(seconds.values()) if name == LANGUAGES else 0.0
    listed = ""
    for label in sorted(seconds, key=lambda label: (-seconds[label], label)):
        longer = SEPARATORS[name].join(filter(None, (listed, sanitize(label))))
        if seconds[label] >= least_s and len(longer.encode()) <= LIST_BYTES[name]:
            listed = longer
    return listed


def find_damaged_texts(index: str | os.PathLike[str], *, repair: bool) -> list[str]:
    """Verify the texts of an index and their full-text index; return descriptions of the damage.

    ``repair`` drops damaged rows and rebuilds derived data; the next run reads the damaged tracks again.

    Raises:
        StoreError: The catalog is damaged and ``repair`` is False, or it cannot be repaired; or another process writes.
    """
    folder = Path(index) / FOLDER
    files = list((folder / FEATURES).glob("*"))
    if not any(path.stat().st_size for path in files) and not Store.exists(folder):
        return []  # nothing was ever stored; its creation may have been interrupted
    try:
        lost_rows = Store.repair_catalog(folder) if repair else []
    except StoreError as error:
        way_out = f"delete {folder}, and read the words again with vidret index --words on"
        raise StoreError(str(error).replace(NEW_INDEX, way_out)) from error
    if repair:
        Store.open(folder, write=True).close()  # replaces missing files by zeros, which fail their checksums
    with TextStore.open(index) as texts:
        bad_index = _check_index(texts, folder / INDEX)
    if bad_index and repair:
        remove_database(folder / INDEX)
    with TextStore.open(index, write=repair) as texts:
        damage = _check_store(texts, repair=repair)
        if lost_rows:
            for track in texts.tracks():
                if not track.complete:
                    texts.restart(track)
    return [*(f"catalog: {row}" for row in lost_rows), *damage, *([bad_index] if bad_index else [])]


def find_lost_texts(store: Store, *, repair: bool) -> str:
    """Return an error if the folder of the texts is missing, else ''; ``repair`` makes it an index without texts."""
    folder = store.path / FOLDER
    if not store.metadata.get(HAS_TEXTS) or folder.exists():
        return ""
    if repair:
        store.metadata.set(HAS_TEXTS, "")
    return f"{folder}: is missing; read them again with vidret index --words on, or --describe"


def _check_store(texts: TextStore, *, repair: bool) -> list[str]:
    tracks = {track.id: track for track in texts.tracks()}
    segments, files = texts.store.upkeep.verify(repair=repair), texts.store.upkeep.verify_vectors(repair=repair)
    if segments and repair:
        for track_id in {segment.video for segment in segments} & tracks.keys():
            texts.restart(tracks[track_id])
        texts.update_index()
    names = {track.id: f"{track.source} of {track.fingerprint}" for track in tracks.values()}
    damage = [f"text {bad.number} of {names.get(bad.video, 'a removed track')}: {bad.reason}" for bad in segments]
    return damage + [f"{file.path}: {file.reason}" for file in files]


def _check_index(texts: TextStore, path: Path) -> str:
    """Return the damage of the full-text index, '' if there is none.

    A killed writer may leave texts in it that are not stored, which the next writer removes.
    """
    if not path.exists():
        return ""  # it is rebuilt
    stored, _ = texts.stored_ids()
    try:
        with closing(TextIndex(path, write=False)) as index:
            missing = np.setdiff1d(stored, index.ids())
            damage = index.find_damage()
    except StoreError as error:
        return str(error).removesuffix(f"; {REPAIR}")
    missing = np.intersect1d(missing, texts.stored_ids()[0])  # another process may have just removed a track
    return damage or (f"{path}: {format_count(len(missing), 'stored text')} missing" if len(missing) else "")
