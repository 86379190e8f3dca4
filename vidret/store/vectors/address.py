"""Addresses of an index's vectors: ``faiss``, which is embedded, or a Milvus file or server."""

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from vidret.errors import StoreError

FAISS = "faiss"
MILVUS = "milvus://"
DEFAULT_FILE = "vectors.milvus.db"  # in the index folder, for an address without a file or server
FORMS = "faiss, milvus://, milvus://FILE.db, milvus://HOST:PORT or milvus://http(s)://HOST:PORT[/DATABASE]"
_BARE = re.compile(r"([^/@:]+|\[[0-9A-Fa-f:.]+\]):\d+(/\w+)?")


def normalise_address(address: str, folder: Path) -> str:
    """Return an address in its normal form, which the index stores.

    A relative file is resolved against the current folder. ``milvus://`` alone means a file in the index folder, which
    moves with the folder.

    Raises:
        StoreError: The address is invalid, or contains a password, which would be stored and displayed.
    """
    if address == FAISS:
        return FAISS
    target = address.removeprefix(MILVUS)
    if target == address:
        raise StoreError(f"store must be {FORMS}, got {address}")
    if not target:
        return MILVUS
    if _BARE.fullmatch(target):
        target = f"http://{target}"
    if target.startswith(("http://", "https://")):
        return MILVUS + _normalise_server(target)
    if target.endswith(".db"):
        path = os.path.abspath(Path(target).expanduser())  # noqa: PTH100  symbolic links are kept, as for videos
        return MILVUS if path == os.path.abspath(folder / DEFAULT_FILE) else MILVUS + path  # noqa: PTH100
    shown = MILVUS + "..." if "@" in target else address
    raise StoreError(f"store must be {FORMS}, got {shown}")


def find_milvus_file(address: str, folder: Path) -> Path | None:
    """Return the milvus-lite file of a normalised address, None for a server."""
    target = address.removeprefix(MILVUS)
    if target.startswith(("http://", "https://")):
        return None
    return Path(target) if target else folder.absolute() / DEFAULT_FILE


def split_milvus_server(address: str) -> tuple[str, str]:
    """Return the server URL of a normalised address and the database there, '' for the default one."""
    parts = urlsplit(address.removeprefix(MILVUS))
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")


def _normalise_server(url: str) -> str:
    parts = _split(url)
    if parts is None or "@" in parts.netloc:
        raise StoreError(
            "store must be an address without a password, which belongs in the environment variable MILVUS_TOKEN"
        )
    database = parts.path.strip("/")
    if not parts.hostname or "/" in database or parts.query or parts.fragment:
        raise StoreError(f"store must be {FORMS}, got {MILVUS}{url}")
    return f"{parts.scheme}://{parts.netloc}" + (f"/{database}" if database else "")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # a password that contains a slash parses as a port
        return None
    return parts
