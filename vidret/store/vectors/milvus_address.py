"""Addresses of Milvus: a file, which milvus-lite serves, or a server."""

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from vidret.errors import StoreError

MILVUS = "milvus://"
DEFAULT_FILE = "vectors.milvus.db"  # in the index folder, for an address without a file or server
FORMS = "milvus://, milvus://FILE.db, milvus://HOST:PORT, milvus://http(s)://HOST:PORT[/DATABASE]"
_BARE = re.compile(r"([^/@:]+|\[[0-9A-Fa-f:.]+\]):\d+(/\w+)?")


def normalise_milvus(address: str, folder: Path) -> str | None:
    """Return an address of Milvus in its normal form, None if it is none.

    A relative file is resolved against the current folder. ``milvus://`` means a file in the index folder, which moves
    with the folder.

    Raises:
        StoreError: It contains a password.
    """
    target = address.removeprefix(MILVUS)
    if target == address:
        return None
    if not target:
        return MILVUS
    if _BARE.fullmatch(target):
        target = f"http://{target}"
    if target.startswith(("http://", "https://")):
        return _normalise_server(target)
    if target.endswith(".db"):
        path = os.path.abspath(Path(target).expanduser())  # noqa: PTH100  symbolic links are kept, as for videos
        return MILVUS if path == os.path.abspath(folder / DEFAULT_FILE) else MILVUS + path  # noqa: PTH100
    return None


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


def _normalise_server(url: str) -> str | None:
    parts = _split(url)
    if parts is None or "@" in parts.netloc:
        raise StoreError(
            "store must be an address without a password, which belongs in the environment variable MILVUS_TOKEN"
        )
    database = parts.path.strip("/")
    if not parts.hostname or "/" in database or parts.query or parts.fragment:
        return None
    return f"{MILVUS}{parts.scheme}://{parts.netloc}" + (f"/{database}" if database else "")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # a password that contains a slash parses as a port
        return None
    return parts
