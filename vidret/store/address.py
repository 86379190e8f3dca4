"""Where an index keeps its vectors: ``faiss``, which is embedded, or the address of a Milvus."""

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from vidret.errors import StoreError

FAISS = "faiss"
MILVUS = "milvus://"
OWN_FILE = "vectors.milvus.db"  # in the index folder, where an address names no place
FORMS = "faiss, milvus://, milvus://FILE.db, milvus://HOST:PORT or milvus://http(s)://HOST:PORT[/DATABASE]"
_BARE = re.compile(r"([^/@:]+|\[[0-9A-Fa-f:.]+\]):\d+(/\w+)?")


def settle(address: str, folder: Path) -> str:
    """Bring an address into the one form that an index keeps.

    A relative file is meant from the current folder, as everywhere on a command line, and kept absolute; ``milvus://``
    alone is a file in the index folder, and moves along with it.

    Raises:
        StoreError: It is no address, or holds a password, which would be kept and shown.
    """
    if address == FAISS:
        return FAISS
    where = address.removeprefix(MILVUS)
    if where == address:
        raise StoreError(f"store must be {FORMS}, got {address}")
    if not where:
        return MILVUS
    if _BARE.fullmatch(where):
        where = f"http://{where}"
    if where.startswith(("http://", "https://")):
        return MILVUS + _settle_server(where)
    if where.endswith(".db"):
        path = os.path.abspath(Path(where).expanduser())  # noqa: PTH100  links stay links, as for videos
        return MILVUS if path == os.path.abspath(folder / OWN_FILE) else MILVUS + path  # noqa: PTH100
    shown = MILVUS + "..." if "@" in where else address
    raise StoreError(f"store must be {FORMS}, got {shown}")


def milvus_file(address: str, folder: Path) -> Path | None:
    """Give the file of a settled address that names milvus-lite, None for a server."""
    where = address.removeprefix(MILVUS)
    if where.startswith(("http://", "https://")):
        return None
    return Path(where) if where else folder.absolute() / OWN_FILE


def milvus_server(address: str) -> tuple[str, str]:
    """Give the server of a settled address, and the database there ('' for the usual one)."""
    parts = urlsplit(address.removeprefix(MILVUS))
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")


def _settle_server(url: str) -> str:
    parts = _split(url)
    if parts is None or "@" in parts.netloc:
        raise StoreError("store must be given without a password, which goes into the variable MILVUS_TOKEN")
    database = parts.path.strip("/")
    if not parts.hostname or "/" in database or parts.query or parts.fragment:
        raise StoreError(f"store must be {FORMS}, got {MILVUS}{url}")
    return f"{parts.scheme}://{parts.netloc}" + (f"/{database}" if database else "")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # a password with a slash in it reads as a port
        return None
    return parts
