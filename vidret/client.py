"""``RemoteEngine``: the client of ``vidret serve``, with the methods of ``Engine``.

It needs neither torch nor a model, and imports quickly.
"""

import base64
import dataclasses
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode, urlsplit

import numpy as np

from vidret.errors import VidretError
from vidret.store.records import StoredVideo, StoreInfo
from vidret.text import absolute_path, strip_query
from vidret.types import (
    ALL_VIDEOS,
    Curve,
    Evidence,
    Filters,
    Hit,
    Moment,
    Query,
    Segment,
    Source,
    TextSource,
    TimedText,
)

T = TypeVar("T")

RETRIES = 2  # of a request that a busy server rejected
PAGE = 500  # videos per request
LONGEST_SIDE = 1024  # of images in pixels; the server does not use more
FACTS = {"width": "width", "height": "height", "average_rate": "fps"}  # names in the store and in the HTTP API


class RemoteError(VidretError):
    """A request that a server rejected, or could not be reached for.

    The message is the server's, if it has one. ``status`` is the HTTP status, None without a response.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        """Store the status in addition to the message."""
        super().__init__(message)
        self.status = status


class RemoteEngine:
    """The engine of a ``vidret serve``: search, locate.

    A context manager with one connection; use one per thread. All paths, also in ``Filters.folder``, are the server's.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0) -> None:
        """Store the address of a server; it is first contacted by a request.

        Args:
            url: URL of the server, such as ``http://127.0.0.1:8000``.
            token: The ``--token`` that the server was started with.
            timeout: Maximum time to wait for data in seconds.

        Raises:
            VidretError: The URL or the token is invalid.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # such as an invalid port
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise VidretError(f"url must be like http://127.0.0.1:8000, got {url}")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise VidretError("token must be printable ASCII, got something else")
        self.url = url.rstrip("/")
        self._root = parts.path.rstrip("/")
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = connect(parts.hostname, port, timeout=timeout)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Methods of ``Engine``

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        rerank: str | None = "auto",
        filters: Filters = ALL_VIDEOS,
        sources: Sequence[Source] | None = None,
    ) -> list[Hit]:
        """Find the videos that match a query; see ``Engine.search``.

        Raises:
            RemoteError: The server does not answer, or rejects the request.
        """
        body = {**_encode_query(query), "k": k, "rerank": rerank or "none", **_encode_filters(filters)}
        body |= {} if sources is None else {"sources": list(sources)}
        return self._ask("POST", "/api/search", lambda answer: [_parse_hit(row) for row in answer["hits"]], body)

    def locate(
        self,
        query: Query,
        k: int = 5,
        *,
        video: str | os.PathLike[str] | int | None = None,
        videos: int = 10,
        filters: Filters = ALL_VIDEOS,
        overlapping: bool = False,
        weak: bool = False,
        sources: Sequence[Source] | None = None,
    ) -> list[Moment]:
        """Find the moments that match a query, in one video or in all; see ``Engine.locate``.

        Raises:
            RemoteError: As in ``search``, or the server has no such video.
        """
        body = {**_encode_query(query), "k": k, "videos": videos, **_encode_filters(filters)}
        body |= {"overlapping": overlapping, "weak": weak}
        body |= {} if sources is None else {"sources": list(sources)}
        if video is not None:
            body["video"] = self._find_video(video)
        return self._ask("POST", "/api/locate", lambda answer: [_parse_moment(row) for row in answer["moments"]], body)

    def curve(self, query: Query, video: str | os.PathLike[str] | int) -> Curve:
        """Score a query against every stored frame of one video.

        Raises:
            RemoteError: As in ``locate``.
        """
        path = f"/api/videos/{self._find_video(video)}/curve"
        if isinstance(query, str):
            return self._ask("GET", f"{path}?{_encode_fields({'q': query})}", _parse_curve)
        return self._ask("POST", path, _parse_curve, _encode_query(query))

    def transcript(
        self, video: str | os.PathLike[str] | int, sources: Sequence[TextSource] | None = None
    ) -> list[TimedText]:
        """Return what is said and shown in a video, by time; see ``Engine.transcript``.

        Raises:
            RemoteError: As in ``locate``; or there is no such source.
        """
        path = f"/api/videos/{self._find_video(video)}/transcript"
        query = "" if sources is None else f"?{urlencode({'sources': list(sources)}, doseq=True)}"
        return self._ask("GET", path + query, lambda answer: [_parse_text(row) for row in answer["texts"]])

    def videos(self, filters: Filters = ALL_VIDEOS) -> list[StoredVideo]:
        """Return the searchable videos that match, sorted by first path.

        Raises:
            RemoteError: The server does not answer.
        """
        videos: list[StoredVideo] = []
        while True:
            query = _encode_fields({"offset": len(videos), "limit": PAGE, **_encode_filters(filters)})
            page = self._ask("GET", f"/api/videos?{query}", lambda page: [_parse_video(row) for row in page["videos"]])
            videos += page
            if len(page) < PAGE:
                return videos

    def video(self, video: int) -> StoredVideo:
        """Return a searchable video by its id.

        Raises:
            RemoteError: The server does not answer, or has no such video.
        """
        return self._ask("GET", f"/api/videos/{video}", _parse_video)

    def info(self) -> StoreInfo:
        """Return statistics of the index.

        Raises:
            RemoteError: The server does not answer.
        """
        names = [field.name for field in dataclasses.fields(StoreInfo)]
        return self._ask("GET", "/api/index", lambda row: StoreInfo(**{name: row["info"][name] for name in names}))

    def failed(self) -> list[tuple[str, str]]:
        """Return the paths of files that could not be indexed, with reasons.

        Raises:
            RemoteError: The server does not answer.
        """
        return self._ask("GET", "/api/index", lambda index: [(row["path"], row["reason"]) for row in index["failures"]])

    # HTTP

    def _find_video(self, video: str | os.PathLike[str] | int) -> int:
        """Return a video's id; a relative path is resolved against the current folder, as in ``Engine``."""
        if isinstance(video, int):
            return video
        path = absolute_path(video)
        video_id = next((each.id for each in self.videos(Filters(folder=path)) if path in each.paths), None)
        if video_id is None:
            raise RemoteError(f"{strip_query(os.fspath(video))}: not in the index of {self.url}")
        return video_id

    def _ask(self, method: str, path: str, parse: Callable[[Any], T], body: dict[str, Any] | None = None) -> T:
        """Send a request and return its parsed answer.

        Raises:
            RemoteError: There is no valid answer, or the server rejects the request.
        """
        data = None if body is None else json.dumps(body).encode()
        response, content = self._send_with_retries(method, self._root + path, data)
        status, kind = response.status, response.headers.get_content_type()
        if status == 401:
            given = "another" if "Authorization" in self._headers else "none"
            raise RemoteError(f"{self.url}: token must be the one the server was started with, got {given}", status)
        try:
            answer = json.loads(content)
            if status == 200:
                return parse(answer)
            if kind == "application/problem+json":
                raise RemoteError(str(answer["detail"]), status)
        except (ValueError, KeyError, TypeError):
            pass  # raised below
        raise RemoteError(f"{self.url}: must be a vidret server, got {status} {response.reason}", status)

    def _send_with_retries(self, method: str, path: str, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        """Send a request; repeat it after the delay that a busy server requests."""
        for _ in range(RETRIES):
            response, content = self._send(method, path, body)
            wait = response.headers.get("Retry-After", "")
            if response.status != 503 or not wait.isdecimal() or int(wait) > self._timeout:
                return response, content
            time.sleep(int(wait))
        return self._send(method, path, body)

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        reused = self._connection.sock is not None
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            return response, response.read()
        except TimeoutError:
            self._connection.close()
            raise RemoteError(f"{self.url}: no answer within {self._timeout:g} s") from None
        except (OSError, HTTPException) as error:
            self._connection.close()
            if reused:  # the server closed the idle connection
                return self._send(method, path, body)
            if isinstance(error, HTTPException):
                raise RemoteError(f"{self.url}: must be a vidret server: {error}") from error
            raise RemoteError(f"{self.url}: cannot be reached: {error}") from error


def _encode_fields(fields: dict[str, Any]) -> str:
    return urlencode(fields, errors="replace")  # surrogates of invalid file names


def _encode_query(query: Query) -> dict[str, Any]:
    if isinstance(query, str):
        return {"query": query}
    if query.ndim != 3 or query.shape[2] != 3 or query.dtype != np.uint8 or not query.size:
        raise VidretError(f"image must be uint8 (height, width, 3), got {query.dtype} {query.shape}")
    from PIL import Image  # imported here, since texts do not need it

    buffer, image = io.BytesIO(), Image.fromarray(query)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    image.save(buffer, "PNG")
    return {"image": base64.b64encode(buffer.getvalue()).decode()}


def _encode_filters(filters: Filters) -> dict[str, Any]:
    """Return the filters that are set, with dates in ISO 8601."""
    fields = {name: value for name, value in dataclasses.asdict(filters).items() if value is not None}
    for name in fields.keys() & {"after", "before"}:
        fields[name] = datetime.fromtimestamp(fields[name], UTC).isoformat()
    return fields


def _parse_hit(row: dict[str, Any]) -> Hit:
    return Hit(
        video=row["video"],
        path=row["path"],
        segment=Segment(row["video"], row["segment"], row["start"], row["end"]),
        time=row["time"],
        score=row["score"],
        weak=row["weak"],
        copies=tuple(row["copies"]),
        why=row["why"],
        evidence=_parse_evidence(row.get("evidence", [])),
    )


def _parse_moment(row: dict[str, Any]) -> Moment:
    fields = {field.name: row[field.name] for field in dataclasses.fields(Moment) if field.name != "evidence"}
    return Moment(**fields, evidence=_parse_evidence(row.get("evidence", [])))


def _parse_evidence(rows: list[dict[str, Any]]) -> tuple[Evidence, ...]:
    return tuple(Evidence(**row | {"matches": tuple((start, end) for start, end in row["matches"])}) for row in rows)


def _parse_text(row: dict[str, Any]) -> TimedText:
    return TimedText(**{field.name: row[field.name] for field in dataclasses.fields(TimedText)})


def _parse_curve(row: dict[str, Any]) -> Curve:
    scores, times = np.array(row["scores"], np.float32), np.array(row["times"], np.float64)
    return Curve(scores, times, row["start"], row["end"], row["best"], row["typical"])


def _parse_video(row: dict[str, Any]) -> StoredVideo:
    return StoredVideo(
        id=row["id"],
        paths=(row["path"], *row["copies"]),
        duration=row["duration"],
        facts={name: row[field] for name, field in FACTS.items() if row[field] is not None},
        complete=row["complete"],
        salvaged=row["salvaged"],
        num_segments=row["segments"],
        changed=None if row["changed"] is None else datetime.fromisoformat(row["changed"]).timestamp(),
    )
