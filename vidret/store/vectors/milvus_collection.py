"""A Milvus collection with the vectors of one index. This is the only module that imports pymilvus.

Searches return ids only: the caller has the exact vectors, while a server may score compressed ones. All reads have
consistency level Strong: they see every acknowledged write of any process. A file is served by milvus-lite in this
process, with exact search (FLAT); a server chooses its kind of index itself (AUTOINDEX).

milvus-lite locks its file: while one process has it open, for reading or writing, all others are rejected. Collections
of one process share the file; closing the last one releases it.
"""

import logging
import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import numpy as np
from jaxtyping import Float, Float32

from vidret.errors import MissingExtraError, StoreError
from vidret.store.folder import MILVUS_FILE
from vidret.store.snapshots.bitmap import Ids

logger = logging.getLogger(__name__)

MILVUS = "milvus://"
_BARE = re.compile(r"([^/@:]+|\[[0-9A-Fa-f:.]+\]):\d+(/\w+)?")


def normalise_milvus(address: str, folder: Path) -> str | None:
    """Return an address of Milvus in its normal form, None for other addresses.

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
        return MILVUS if path == os.path.abspath(folder / MILVUS_FILE) else MILVUS + path  # noqa: PTH100
    return None


def find_milvus_file(address: str, folder: Path) -> Path | None:
    """Return the milvus-lite file of a normalised address, None for a server."""
    target = address.removeprefix(MILVUS)
    if target.startswith(("http://", "https://")):
        return None
    return Path(target) if target else folder.absolute() / MILVUS_FILE


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


LIMIT = 16_384  # maximum results per query
ROWS = 1000  # per message: 4 MB at 1,024 dimensions; the limit is 64 MB
CONNECT_SECONDS, SECONDS = 10.0, 60.0
NOT_FOUND: Final = 100
STRONG = "Strong"
WORDS_BYTES = 65_535  # maximum size of a text field
ANALYZERS = ("whitespace", "standard")  # of stems; milvus-lite has the second one only
BM25 = {"bm25_k1": 1.2, "bm25_b": 0.75}  # as FTS5


def load_pymilvus() -> Any:
    """Import pymilvus on first use and silence its loggers, since it raises everything that it logs."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import pymilvus
    except ImportError as error:
        raise MissingExtraError("a store in Milvus", "milvus") from error
    for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite", "grpc"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return pymilvus


class Collection:
    """A collection of rows: id, video, vector and, of texts, the stems of their words."""

    def __init__(self, address: str, name: str, dim: int, folder: Path) -> None:
        """Connect to a normalised address; the collection need not exist yet.

        Servers receive the token in the environment variable MILVUS_TOKEN, which is not stored.

        Raises:
            StoreError: Milvus cannot be reached or rejects the token, or another process has the file open.
            MissingExtraError: pymilvus is not installed.
        """
        self._pymilvus = load_pymilvus()
        self.name, self._address, self._dim = name, address, dim
        self.has_words = False  # whether full text can be searched; known once the collection exists
        self._file = find_milvus_file(address, folder)
        uri, database = split_milvus_server(address) if self._file is None else (_lite.open(self._file, address), "")
        token = os.environ.get("MILVUS_TOKEN", "") if self._file is None else ""
        try:
            with self._as_store_error():
                self._client = self._pymilvus.MilvusClient(uri, db_name=database, token=token, timeout=CONNECT_SECONDS)
        except BaseException:
            if self._file is not None:
                _lite.close(self._file)
            raise
        self._disconnect = weakref.finalize(self, _disconnect, self._client, self._file)  # also if it is dropped
        self._disconnect.atexit = False

    def exists(self) -> bool:
        """Return whether the collection exists; if so, load it for searching."""
        exists = bool(self._call("has_collection"))
        if exists:
            self._call("load_collection")
            fields = self._call("describe_collection")["fields"]
            self.has_words = any(field["name"] == "words" for field in fields)
        return exists

    def create(self, *, with_texts: bool = False) -> None:
        """Create an empty collection; with texts, it has a full-text index if Milvus supports one."""
        reason = ""
        for analyzer in ANALYZERS if with_texts else ():
            try:
                self._create(analyzer)
            except self._pymilvus.MilvusException as error:
                reason = _first_line(error.message)
                self.drop()  # the collection may exist without its indexes
            else:
                self.has_words = True
                return
        if with_texts:
            logger.warning("%s: words are searched by SQLite, since Milvus has no bm25 (%s)", self._address, reason)
        with self._as_store_error():
            self._create()

    def _create(self, analyzer: str = "") -> None:
        """Create the collection; with an analyzer, the fields ``words`` and ``bm25`` too."""
        pymilvus, kinds = self._pymilvus, self._pymilvus.DataType
        schema = pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("video", kinds.INT64)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=self._dim)  # milvus-lite has no float16
        index = pymilvus.MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX" if self._file is None else "FLAT", metric_type="IP")
        if analyzer:
            options = {"enable_analyzer": True, "analyzer_params": {"tokenizer": analyzer}}
            schema.add_field("words", kinds.VARCHAR, max_length=WORDS_BYTES, **options)
            schema.add_field("bm25", kinds.SPARSE_FLOAT_VECTOR)
            bm25 = pymilvus.Function("bm25", pymilvus.FunctionType.BM25, ["words"], ["bm25"])
            schema.add_function(bm25)
            index.add_index("bm25", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=BM25)
        self._client.create_collection(
            self.name, schema=schema, index_params=index, consistency_level=STRONG, timeout=SECONDS
        )

    def search(self, queries: Float32[np.ndarray, "query dim"], k: int, expression: str) -> list[Ids]:
        """Return the ids of the up to k nearest rows of each query that match the expression."""
        return self._search(list(queries), k, expression, "vector", "IP")

    def search_words(self, words: str, k: int, expression: str) -> list[Ids]:
        """Return the ids of the up to k rows, in one list, with the best bm25 that match the expression."""
        return self._search([words], k, expression, "bm25", "BM25")

    def _search(self, queries: Sequence[object], k: int, expression: str, field: str, metric: str) -> list[Ids]:
        results = self._call(
            "search",
            data=queries,
            anns_field=field,
            limit=k,
            filter=expression,
            output_fields=["id"],
            search_params={"metric_type": metric},
            consistency_level=STRONG,
        )
        return [np.array([hit["id"] for hit in hits], np.int64) for hits in results]

    def upsert(self, rows: Sequence[Mapping[str, object]], vectors: Float[np.ndarray, "row dim"]) -> None:
        """Insert or replace rows."""
        records = [{**row, "vector": vector} for row, vector in zip(rows, vectors.astype(np.float32), strict=True)]
        for first in range(0, len(records), ROWS):
            self._call("upsert", records[first : first + ROWS])

    def delete(self, expression: str) -> None:
        """Delete the rows that match the expression."""
        self._call("delete", filter=expression)

    def count(self, expression: str) -> int:
        """Return the number of rows that match the expression, '' for all."""
        rows = self._call("query", filter=expression, output_fields=["count(*)"], consistency_level=STRONG)
        return int(rows[0]["count(*)"])

    def flush(self) -> None:
        """Make Milvus write everything to disk."""
        self._call("flush")

    def drop(self) -> None:
        """Delete the collection if it exists."""
        self._call("drop_collection")

    def close(self) -> None:
        """Disconnect; the last collection of a file releases it for other processes."""
        with self._as_store_error():
            self._disconnect()

    def _call(self, method: str, *values: object, **options: object) -> Any:
        """Call a method of the client for this collection."""
        with self._as_store_error():
            return getattr(self._client, method)(self.name, *values, **options, timeout=SECONDS)

    @contextmanager
    def _as_store_error(self) -> Iterator[None]:
        """Convert errors of pymilvus to ``StoreError`` with one line."""
        try:
            yield
        except self._pymilvus.MilvusException as error:
            if error.code == NOT_FOUND:
                raise missing_collection_error(self._address, self.name) from error
            cause: Any = error.__cause__
            if hasattr(cause, "details"):  # of gRPC; the message of pymilvus is the same for every failed connection
                rejected = cause.code().name == "UNAUTHENTICATED"
                reason = "the token in MILVUS_TOKEN was rejected" if rejected else "cannot be reached"
                raise StoreError(f"{self._address}: {reason} ({_first_line(cause.details() or '')})") from error
            raise StoreError(f"{self._address}: {_first_line(error.message)}") from error


def missing_collection_error(address: str, name: str) -> StoreError:
    """Return the error for a collection that was dropped by somebody else."""
    return StoreError(f"{address}: the collection {name} of this index does not exist; run vidret index to fill it")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


class _Lite:
    """The milvus-lite files served by this process, with the number of users of each."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the thread that has it may drop a collection
        self._users = Counter[Path]()

    def open(self, path: Path, address: str) -> str:
        """Serve a file, unless it is served already; return the URI to connect to."""
        try:
            from milvus_lite.server_manager import server_manager_instance as server
        except ImportError as error:
            raise MissingExtraError("a store in Milvus", "milvus") from error
        log, capture = logging.getLogger("milvus_lite.server_manager"), _LogCapture()
        with self._lock:
            log.setLevel(logging.ERROR)
            log.addFilter(capture)
            try:
                uri = server.start_and_get_uri(str(path)) if path.parent.is_dir() else None
            finally:
                log.removeFilter(capture)
            if uri is None:
                raise StoreError(f"{address}: {capture.reason(path)}")
            self._users[path] += 1
            return str(uri)

    def close(self, path: Path) -> None:
        """Stop serving a file after its last user."""
        from milvus_lite.server_manager import server_manager_instance as server

        with self._lock:
            self._users[path] -= 1
            if not self._users[path]:
                server.release_server(str(path))


def _disconnect(client: Any, file: Path | None) -> None:
    client.close()
    if file is not None:
        _lite.close(file)


class _LogCapture(logging.Filter):
    """Captures the reason why milvus-lite did not start, which it only logs, and suppresses the log record."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        self.error = record.exc_info[1] if record.exc_info else None
        return False

    def reason(self, path: Path) -> str:
        if type(self.error).__name__ == "DataDirLockedError":
            return "open in another process; milvus-lite supports one at a time: wait, or use a Milvus server"
        reason = self.error or f"{path.parent} is not a folder"
        return f"milvus-lite cannot open the file ({_first_line(str(reason))})"


_lite = _Lite()
