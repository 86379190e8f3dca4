"""One index's vectors in a collection of Milvus. Nothing else here knows pymilvus.

Scores are left to the caller, who has the exact vectors: a server's own may be of compressed ones. Every read is of
consistency level Strong: it sees all that was acknowledged before, whichever process wrote it, and the mirror relies on
that. A file is served by milvus-lite inside this process, exactly (FLAT); a server chooses its kind of index itself
(AUTOINDEX).

milvus-lite locks its file for one process: while one process has it open, for reading or writing, every other is
refused at once. Within a process any number of collections share it, and closing the last one lets others in.
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float32, Int64

from vidret.errors import MissingExtraError, StoreError
from vidret.store.address import milvus_file, milvus_server

LIMIT = 16_384  # results that Milvus gives at most for a query
PATH_BYTES = 65_535  # and bytes that a text field holds
ROWS = 1000  # in one message: 4 MB at 1,024 dimensions, of 64 that are allowed
CONNECT_SECONDS, SECONDS = 10.0, 60.0
NOT_FOUND: Final = 100
STRONG = "Strong"
Ids = Int64[np.ndarray, " _id"]


def load_pymilvus() -> Any:
    """Import pymilvus on first use, and keep it from talking: what it would log comes as an error, too.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import pymilvus
    except ImportError as error:
        raise MissingExtraError("vectors in Milvus", "milvus") from error
    for name in ("pymilvus", "pymilvus.milvus_client", "milvus_lite", "grpc"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return pymilvus


class Collection:
    """A collection of rows: id, video, vector, and what filters ask for."""

    def __init__(self, address: str, name: str, dim: int, folder: Path) -> None:
        """Connect to a settled address; the collection need not exist yet.

        The environment variable MILVUS_TOKEN is shown to servers, and kept nowhere.

        Raises:
            StoreError: Milvus cannot be reached, refuses the token, or another process has the file.
            MissingExtraError: pymilvus is not installed.
        """
        self._pymilvus = load_pymilvus()
        self.name, self._address, self._dim = name, address, dim
        self._file = milvus_file(address, folder)
        uri, database = milvus_server(address) if self._file is None else (_lite.open(self._file, address), "")
        token = os.environ.get("MILVUS_TOKEN", "") if self._file is None else ""
        try:
            with self._told():
                self._client = self._pymilvus.MilvusClient(uri, db_name=database, token=token, timeout=CONNECT_SECONDS)
        except BaseException:
            if self._file is not None:
                _lite.close(self._file)
            raise

    def exists(self) -> bool:
        """Say whether the collection is there; if it is, it can be searched from now on."""
        with self._told():
            there = bool(self._client.has_collection(self.name, timeout=SECONDS))
            if there:
                self._client.load_collection(self.name, timeout=SECONDS)
            return there

    def make(self) -> None:
        """Make the collection, empty."""
        kinds = self._pymilvus.DataType
        with self._told():
            schema = self._pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", kinds.INT64, is_primary=True)
            schema.add_field("video", kinds.INT64)
            schema.add_field("vector", kinds.FLOAT_VECTOR, dim=self._dim)  # milvus-lite has no float16
            schema.add_field("seconds", kinds.DOUBLE)
            schema.add_field("path", kinds.VARCHAR, max_length=PATH_BYTES)
            schema.add_field("changed", kinds.INT64)
            index = self._pymilvus.MilvusClient.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX" if self._file is None else "FLAT", metric_type="IP")
            self._client.create_collection(
                self.name, schema=schema, index_params=index, consistency_level=STRONG, timeout=SECONDS
            )

    def search(self, queries: Float32[np.ndarray, "query dim"], k: int, expression: str) -> list[Ids]:
        """Find the ids of the k rows nearest each query, fewer where there are fewer, among those that match."""
        with self._told():
            found = self._client.search(
                self.name,
                data=list(queries),
                anns_field="vector",
                limit=k,
                filter=expression,
                output_fields=["id"],
                search_params={"metric_type": "IP"},
                consistency_level=STRONG,
                timeout=SECONDS,
            )
            return [np.array([hit["id"] for hit in hits], np.int64) for hits in found]

    def upsert(self, rows: Sequence[Mapping[str, object]], vectors: Float[np.ndarray, "row dim"]) -> None:
        """Write rows; those that are there already are replaced."""
        whole = [{**row, "vector": vector} for row, vector in zip(rows, vectors.astype(np.float32), strict=True)]
        with self._told():
            for first in range(0, len(whole), ROWS):
                self._client.upsert(self.name, whole[first : first + ROWS], timeout=SECONDS)

    def delete(self, expression: str) -> None:
        """Delete the rows that match."""
        with self._told():
            self._client.delete(self.name, filter=expression, timeout=SECONDS)

    def count(self, expression: str) -> int:
        """Count the rows that match, '' for all."""
        with self._told():
            found = self._client.query(
                self.name,
                filter=expression,
                output_fields=["count(*)"],
                consistency_level=STRONG,
                timeout=SECONDS,
            )
            return int(found[0]["count(*)"])

    def flush(self) -> None:
        """Have Milvus write down for good what it was given."""
        with self._told():
            self._client.flush(self.name, timeout=SECONDS)

    def drop(self) -> None:
        """Delete the collection, if it is there."""
        with self._told():
            self._client.drop_collection(self.name, timeout=SECONDS)

    def close(self) -> None:
        """Disconnect; the last one of a file lets other processes at it."""
        with self._told():
            self._client.close()
        if self._file is not None:
            _lite.close(self._file)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what pymilvus raises into one sentence."""
        try:
            yield
        except self._pymilvus.MilvusException as error:
            if error.code == NOT_FOUND:
                raise missing(self._address, self.name) from error
            cause: Any = error.__cause__
            if hasattr(cause, "details"):  # gRPC's; pymilvus says the same of every failure to connect
                refused = cause.code().name == "UNAUTHENTICATED"
                what = "the token in MILVUS_TOKEN is refused" if refused else "cannot be reached"
                raise StoreError(f"{self._address}: {what} ({_first_line(cause.details() or '')})") from error
            raise StoreError(f"{self._address}: {_first_line(error.message)}") from error


def missing(address: str, name: str) -> StoreError:
    """Say that somebody dropped a collection, and what mends it."""
    return StoreError(f"{address}: the collection {name} of this index is gone; vidret index fills a new one")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


class _Lite:
    """The milvus-lite files that this process serves, each with the number of its users."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = Counter[Path]()

    def open(self, path: Path, address: str) -> str:
        """Serve a file, if it is not served already; give the place to connect to."""
        try:
            from milvus_lite.server_manager import server_manager_instance as server
        except ImportError as error:
            raise MissingExtraError("vectors in Milvus", "milvus") from error
        log, caught = logging.getLogger("milvus_lite.server_manager"), _Caught()
        with self._lock:
            log.setLevel(logging.ERROR)
            log.addFilter(caught)
            try:
                uri = server.start_and_get_uri(str(path)) if path.parent.is_dir() else None
            finally:
                log.removeFilter(caught)
            if uri is None:
                raise StoreError(f"{address}: {caught.tell(path)}")
            self._users[path] += 1
            return str(uri)

    def close(self, path: Path) -> None:
        """Stop serving a file that nobody here uses any more."""
        from milvus_lite.server_manager import server_manager_instance as server

        with self._lock:
            self._users[path] -= 1
            if not self._users[path]:
                server.release_server(str(path))


class _Caught(logging.Filter):
    """Why milvus-lite did not start: it says so in its log alone, which goes no further."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        self.error = record.exc_info[1] if record.exc_info else None
        return False

    def tell(self, path: Path) -> str:
        if type(self.error).__name__ == "DataDirLockedError":
            return "another process has it open, and milvus-lite serves one at a time; wait, or use a Milvus server"
        reason = self.error or f"{path.parent} is no folder"
        return f"milvus-lite cannot open it ({_first_line(str(reason))})"


_lite = _Lite()
