"""The torture set of index folders: copies of a sound index, each changed by somebody who wants to do harm.

What a command does with one of them may fail with a sentence, but must leave everything outside of the folder as it is,
end in seconds, and never raise anything but a ``VidretError``.
"""

import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from vidret.store.catalog.catalog import Catalog
from vidret.store.vectors.manifest import HELD_IDS, MANIFEST, Manifest, ManifestEntry, sample_checksum

NUM_FLAT_FILES = 80
Change = Callable[[Path, Path], None]  # of the index in a folder, with another folder that is somebody's own
FOLDERS = ("features", "vectors", "thumbnails", "moments", "judged", "words", "reindex")
FILES = ["writer.lock", "watches.json", "watches.lock", "catalog.sqlite", "catalog.sqlite-wal", "identities.sqlite"]
FILES += ["features/video.f16", "features/tokens.bin", "vectors/flat-0123456789abcdef.faiss"]
NAMES = ["photo.jpg", "0123456789abcdef0123456789abcdef.jpg", "firmware.bin", "weights.f16", "notes.faiss"]
NAMES += ["thesis.doc", "unfinished", "writer.lock", "video.7.f16", "tokens.7.bin", "ivf-0123456789abcdef.faiss"]
NAMES += ["a.zip"]


def make_own_folder(folder: Path) -> Path:
    """Write files of somebody into a folder; many have names that vidret writes."""
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(f"{name}, which is nobody else's".encode() * 100)
    return folder


def list_changes() -> Iterator[tuple[str, Change]]:
    """Yield the name of each hostile index, and the change of a sound one that makes it."""
    for name in FOLDERS:
        yield f"linked {name}", partial(_link_folder, name)
    for name in FILES:
        yield f"linked {name}", partial(_link_file, name)
        yield f"pipe {name}", partial(_put_pipe, name)
    yield "lock that is a file of mine", _link_lock_hard
    for name in ("/thesis.doc", "../../../own/thesis.doc", "../features/video.f16", "..", "", "x\0y", "weights.f16"):
        yield f"manifest that names {name!r}", partial(_name_in_manifest, name)
    for text in ("{", "[]", "null", '{"form": 2}', '{"form": 2, "dim": 3, "generation": 0, "shards": 5, "flat": null}'):
        yield f"manifest {text}", partial(_set_meta, {MANIFEST: text})
    yield "nested manifest", partial(_set_meta, {MANIFEST: "[" * 100_000})
    for ids in (b"x", struct.pack("<q", -1), struct.pack("<q", 2**62), struct.pack("<3q", 5, 1, 1)):
        yield f"held ids {ids!r}", partial(_set_meta, {HELD_IDS: ids})
    for epoch in ("/../../../own/a", -1, 2**62, b"\0"):
        yield f"epoch {epoch!r}", partial(_set_meta, {"epoch": epoch})
    for key, value in (
        ("concept.a", b"PK"),
        ("ranker", "[1]"),
        ("scale.none", '{"scale": 5}'),
        ("calibration.none", "5"),
    ):
        yield f"{key} {value!r}", partial(_set_meta, {f"user.{key}": value})
        yield f"nested {key}", partial(_set_meta, {f"user.{key}": "[" * 100_000})
    for dim in (0, -1, 2**40, "three"):
        yield f"dim {dim}", partial(_set_meta, {"dim": dim})
    for tail in ("[]", "{", "[-1, -1, -1, 0]", '["a", "b", "c", 1]', f"[{2**62}, 1, 1, 1]"):
        yield f"tail {tail}", partial(_set_meta, {"tail": tail})
    for encoder in ("antigravity:x", "endpoint:http://127.0.0.1:9/v1?model=x", "hf-hub:a/b", "\x1b[31m", "../a"):
        yield f"encoder {encoder!r}", partial(_set_meta, {"encoder_name": encoder})
    for store in ("{", '{"address": "milvus:///own/x.db", "name": "a"}', '{"address": "faiss", "name": "; DROP"}'):
        yield f"store {store}", partial(_set_meta, {"store": store})
    yield "catalog without tables", partial(_write_catalog, b"")
    yield "catalog of one damaged page", partial(_write_catalog, b"SQLite format 3\0" + bytes(range(256)) * 16)
    yield "catalog with a view", partial(_run_sql, ["ALTER TABLE meta RENAME TO m", f"CREATE VIEW meta AS {ENDLESS}"])
    endless = f"CREATE TRIGGER t AFTER UPDATE ON files BEGIN SELECT count(*) FROM ({ENDLESS}); END"
    yield "catalog with a trigger", partial(_run_sql, [endless])
    for content in ("../../own/a", "..", "/etc/passwd"):
        sql = f"UPDATE videos SET fingerprint = '{content}'"
        yield f"content {content!r}", partial(_run_sql, [sql], tables=("videos",))


ENDLESS = (
    "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT '' AS key, x AS value, 0 AS checksum FROM r"
)


def _link_folder(name: str, index: Path, user_folder: Path) -> None:
    """Replace a folder by a link to one of somebody's own, which also has what was in it."""
    folder = index / name
    if folder.is_dir():
        for path in folder.iterdir():
            (user_folder / path.name).write_bytes(path.read_bytes())
            path.unlink()
        folder.rmdir()
    folder.symlink_to(user_folder)


def _link_file(name: str, index: Path, user_folder: Path) -> None:
    path = index / name
    if path.exists():
        (user_folder / path.name).write_bytes(path.read_bytes())
    path.unlink(missing_ok=True)
    path.symlink_to(user_folder / ("thesis.doc" if not (user_folder / path.name).exists() else path.name))


def _put_pipe(name: str, index: Path, _user_folder: Path) -> None:
    (index / name).unlink(missing_ok=True)
    os.mkfifo(index / name)


def _link_lock_hard(index: Path, user_folder: Path) -> None:
    (index / "writer.lock").unlink(missing_ok=True)
    os.link(user_folder / "thesis.doc", index / "writer.lock")


def _name_in_manifest(name: str, index: Path, user_folder: Path) -> None:
    """Let the manifest name another file, with a wrong checksum, so that a repair drops it."""
    name = str(user_folder / name[1:]) if name.startswith("/") else name
    flat = read_flat(index)
    row = {"form": 2, **asdict(read_manifest(index)), "flat": {**asdict(flat), "name": name}}
    _set_meta({MANIFEST: json.dumps(row)}, index, user_folder)


def read_manifest(index: Path) -> Manifest:
    """Return the manifest of a sound index."""
    catalog = Catalog(index / "catalog.sqlite", write=False)
    try:
        manifest = Manifest.from_json(catalog.tables.meta(MANIFEST))
    finally:
        catalog.close()
    assert manifest is not None
    return manifest


def read_flat(index: Path) -> ManifestEntry:
    """Return the entry of its flat file of vectors."""
    flat = read_manifest(index).flat
    assert flat is not None
    return flat


def put_flat(index: Path, content: bytes) -> None:
    """Replace the flat file of vectors, with checksums that are right."""
    manifest, flat = read_manifest(index), read_flat(index)
    (index / "vectors" / flat.name).unlink()
    digest = sha256(content).hexdigest()
    path = index / "vectors" / f"flat-{digest[:16]}.faiss"
    path.write_bytes(content)
    with path.open("rb") as file:
        proof = sample_checksum(file, len(content), flat.head_bytes)
    entry = replace(flat, name=path.name, num_bytes=len(content), proof=proof, sha256=digest)
    _set_meta({MANIFEST: replace(manifest, flat=entry).to_json()}, index, index)


def _set_meta(facts: dict[str, str | int | bytes], index: Path, _user_folder: Path) -> None:
    set_metadata(index, **facts)


def list_flat_files(sound: bytes) -> Iterator[bytes]:
    """Yield hostile contents of a flat file of vectors: absurd counts, wrong bytes, and another kind of index."""
    chance = random.Random(5)
    for offset in range(4, 4 * (NUM_FLAT_FILES // 2), 4):
        content = bytearray(sound)
        offset = min(offset, len(sound) - 8)
        content[offset : offset + 8] = struct.pack("<Q", chance.choice((2**63 - 1, 2**40, 2**32, 2**31, 0)))
        yield bytes(content)
    for _ in range(NUM_FLAT_FILES // 2):
        content = bytearray(sound)
        for _ in range(chance.randrange(1, 6)):
            content[chance.randrange(len(content))] = chance.choice((0, 127, 128, 255))
        yield bytes(content)
    yield sound.replace(b"IxSQ", b"IxFI")


def set_metadata(index: Path, **facts: str | int | bytes) -> None:
    """Set metadata of a catalog, with checksums that are right."""
    catalog = Catalog(index / "catalog.sqlite", write=True)
    try:
        with catalog.database.transaction():
            for key, value in facts.items():
                catalog.tables.set_meta(key, value)
    finally:
        catalog.close()


def _run_sql(statements: list[str], index: Path, _user_folder: Path, *, tables: tuple[str, ...] = ()) -> None:
    catalog = Catalog(index / "catalog.sqlite", write=True)
    try:
        with catalog.database.transaction():
            for statement in statements:
                catalog.database.run(statement)
            for table in tables:
                catalog.tables.update_checksums(table, "1")
    finally:
        catalog.close()


def _write_catalog(content: bytes, index: Path, _user_folder: Path) -> None:
    for path in index.glob("catalog.sqlite*"):
        path.unlink()
    (index / "catalog.sqlite").write_bytes(content)
