"""The manifest of saved vectors: immutable files with their checksums.

A reader uses only files listed in the catalog's manifest. A file is on disk before a durable transaction lists it, and
never changes afterwards, so that the listed files are complete whenever a writer is killed. FAISS loads flipped bytes
without an error; hence the checksums.
"""

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from vidret.disk import remove_closed, sync_folder
from vidret.errors import StoreError

logger = logging.getLogger(__name__)

MANIFEST, HELD_IDS = "vectors", "vectors.held"  # keys of the manifest and of the ids in its files, a packed bitmap
VERSION = 1
NUM_SAMPLES, SAMPLE_BYTES = 16, 4096
NAME = re.compile(r"[a-z0-9-]+-[0-9a-f]{16}\.faiss")  # of the files that ``write_file`` writes


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A file of ``total`` vectors. ``proof`` is a checksum of samples of its bytes, ``sha256`` of all of them.

    The first ``head_bytes`` are the header, which locates the vectors.
    """

    name: str
    kind: str
    total: int
    num_bytes: int
    head_bytes: int
    proof: str
    sha256: str

    def __post_init__(self) -> None:
        """Check the name, which could lead out of the folder."""
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name must be that of a file of vectors, got {self.name}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The saved files: shards and a flat index."""

    dim: int
    shards: tuple[ManifestEntry, ...]
    flat: ManifestEntry | None

    @property
    def files(self) -> tuple[ManifestEntry, ...]:
        """All files."""
        return self.shards if self.flat is None else (*self.shards, self.flat)

    def to_json(self) -> str:
        """Return the manifest as JSON for the catalog."""
        return json.dumps({"form": VERSION, **asdict(self)})

    @staticmethod
    def from_json(text: str | None) -> "Manifest | None":
        """Parse the manifest in the catalog; None if nothing was saved, or it is invalid or of another version."""
        try:
            row = json.loads(text) if text else {}
            if row.pop("form", None) != VERSION:
                return None
            flat = None if row["flat"] is None else ManifestEntry(**row["flat"])
            shards = tuple(ManifestEntry(**entry) for entry in row["shards"])
            return Manifest(row["dim"], shards, flat)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            logger.warning("the manifest of saved vectors is not valid: %s", error)
            return None


def write_file(
    folder: Path, kind: str, total: int, payload_bytes: int, write: Callable[[Callable[[bytes], None]], None]
) -> ManifestEntry:
    """Write a new file of ``total`` vectors durably, and return its entry; no manifest lists its name yet.

    ``payload_bytes`` is the size of the vectors and ids at its end. ``write`` is called with a function that accepts
    the bytes, chunk by chunk.
    """
    path, digest = folder / f"{kind}-{secrets.token_hex(8)}.faiss", hashlib.sha256()

    def append(chunk: bytes) -> None:
        digest.update(chunk)
        file.write(chunk)

    try:
        folder.mkdir(exist_ok=True)
        with path.open("xb") as file:
            write(append)
            file.flush()
            os.fsync(file.fileno())
            num_bytes = file.tell()
        sync_folder(folder)
        head_bytes = num_bytes - payload_bytes
        with path.open("rb") as written:
            proof = sample_checksum(written, num_bytes, head_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)  # a full disk needs the space
        raise StoreError(f"{folder}: cannot be written ({error.strerror})") from error
    return ManifestEntry(
        name=path.name,
        kind=kind,
        total=total,
        num_bytes=num_bytes,
        head_bytes=head_bytes,
        proof=proof,
        sha256=digest.hexdigest(),
    )


def sample_checksum(file: BinaryIO, num_bytes: int, head_bytes: int) -> str:
    """Compute the SHA-256 of the header and of 16 blocks spread over the rest, in milliseconds for any file size.

    This detects a truncated, replaced or largely blank file, and any damage to the header. A flipped bit in a vector
    or an id is not detected: ``vidret info --check`` reads everything.
    """
    digest = hashlib.sha256(file.read(head_bytes))
    for index in range(NUM_SAMPLES):
        file.seek(max(head_bytes, head_bytes + (num_bytes - head_bytes - SAMPLE_BYTES) * index // (NUM_SAMPLES - 1)))
        digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def find_mismatch(folder: Path, entry: ManifestEntry, *, whole: bool) -> str:
    """Return why a file does not match its manifest entry, '' if it does; ``whole`` verifies every byte."""
    try:
        with (folder / entry.name).open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes != entry.num_bytes:
                return f"size must be {entry.num_bytes} bytes, got {num_bytes}"
            if sample_checksum(file, entry.num_bytes, entry.head_bytes) != entry.proof:
                return "checksum of samples does not match"
            file.seek(0)
            if whole and hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                return "checksum does not match"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def remove_others(folder: Path, manifest: Manifest) -> None:
    """Delete files of vectors that the manifest does not list; open files stay readable."""
    listed_names = {entry.name for entry in manifest.files}
    for path in folder.glob("*"):
        if path.name not in listed_names and NAME.fullmatch(path.name):
            remove_closed(path)
