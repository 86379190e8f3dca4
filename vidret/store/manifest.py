"""What saved vectors must be, to be believed: files written once, each under the name of its content.

A reader believes only files that the catalog's seal names. A file is on disk under its own name before a durable
transaction names it, and is never changed after: whatever moment a writer is killed at, the seal's files are whole.
FAISS loads flipped bytes without a word; hence the proofs here.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from vidret.errors import StoreError

SEAL, SEAL_DEAD = "vectors", "vectors.dead"  # under which the catalog keeps a seal, and the ids that its shards mask
FORM = 2  # 1 was a single file, whole in memory
NUM_SPOTS, SPOT = 16, 4096
UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class FileSeal:
    """One file of vectors: its kind, how many it holds, and its bytes, of which ``proof`` shows some and sha256 all.

    ``head_bytes`` are at its beginning: what says where the vectors lie, without which none could be read.
    """

    name: str
    kind: str
    total: int
    num_bytes: int
    head_bytes: int
    proof: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Seal:
    """All saved vectors: shards on disk, those of ``flat``, and the generation whose searchable ids they hold.

    -1 is no generation: some vectors were damaged and left out, so that every open looks again.
    """

    dim: int
    generation: int
    shards: tuple[FileSeal, ...]
    flat: FileSeal | None

    @property
    def files(self) -> tuple[FileSeal, ...]:
        """Give every file."""
        return self.shards if self.flat is None else (*self.shards, self.flat)

    def to_json(self) -> str:
        """Write it down for the catalog."""
        return json.dumps({"form": FORM, **asdict(self)})

    @staticmethod
    def from_json(text: str | None) -> "Seal | None":
        """Read what the catalog keeps; None where nothing was saved, or in a form of other versions."""
        row = json.loads(text) if text else {}
        if row.pop("form", None) != FORM:
            return None
        flat = None if row["flat"] is None else FileSeal(**row["flat"])
        return Seal(row["dim"], row["generation"], tuple(FileSeal(**each) for each in row["shards"]), flat)


def write_file(
    folder: Path,
    kind: str,
    total: int,
    payload_bytes: int,
    write: Callable[[Callable[[bytes], None]], None],
) -> FileSeal:
    """Put what ``write`` hands over on disk, durably, and only then under a name, which tells its content.

    Args:
        folder: Where.
        kind: What kind of index it is.
        total: How many vectors it holds.
        payload_bytes: How many of its last bytes are vectors and ids.
        write: Calls its argument with the bytes, in order.

    Raises:
        StoreError: The disk refuses.
    """
    unfinished, digest = folder / UNFINISHED, hashlib.sha256()

    def put(chunk: bytes) -> None:
        digest.update(chunk)
        file.write(chunk)

    try:
        folder.mkdir(exist_ok=True)
        with unfinished.open("wb") as file:
            write(put)
            file.flush()
            os.fsync(file.fileno())
            num_bytes = file.tell()
        sha256 = digest.hexdigest()
        path = folder / f"{kind}-{sha256[:16]}.faiss"
        unfinished.replace(path)
        sync_folder(folder)
        head_bytes = num_bytes - payload_bytes
        with path.open("rb") as written:
            proof = prove(written, num_bytes, head_bytes)
    except OSError as error:
        unfinished.unlink(missing_ok=True)  # a full disk needs the space
        raise StoreError(f"{folder}: cannot be written ({error.strerror})") from error
    return FileSeal(path.name, kind, total, num_bytes, head_bytes, proof, sha256)


def prove(file: BinaryIO, num_bytes: int, head_bytes: int) -> str:
    """Hash the head and 16 blocks spread over the rest: milliseconds, however large the file.

    It shows that the file is the one that was written and not cut, replaced or blank in great parts, and that all that
    leads to the vectors is right. A bit flipped in a vector or an id goes unseen, as it does while a file is in use:
    for that ``vidret info --check`` reads everything.
    """
    digest = hashlib.sha256(file.read(head_bytes))
    for number in range(NUM_SPOTS):
        file.seek(max(head_bytes, head_bytes + (num_bytes - head_bytes - SPOT) * number // (NUM_SPOTS - 1)))
        digest.update(file.read(SPOT))
    return digest.hexdigest()


def doubt(folder: Path, seal: FileSeal, *, whole: bool) -> str:
    """Say why a file is not what was sealed, empty where it is, going by its proof or by every byte of it."""
    try:
        with (folder / seal.name).open("rb") as file:
            if os.fstat(file.fileno()).st_size != seal.num_bytes:
                return f"it has not the {seal.num_bytes} bytes that were saved"
            if prove(file, seal.num_bytes, seal.head_bytes) != seal.proof:
                return "it is not the file that was saved"
            file.seek(0)
            if whole and hashlib.file_digest(file, "sha256").hexdigest() != seal.sha256:
                return "some of its bytes are not those that were saved"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def remove_others(folder: Path, seal: Seal) -> None:
    """Delete what no seal names any more; who has a file open keeps it."""
    known = {each.name for each in seal.files}
    for path in (*folder.glob("*.faiss"), *folder.glob(UNFINISHED)):
        if path.name not in known:
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the disk has a folder's names."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
