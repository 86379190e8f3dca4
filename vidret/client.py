"""RemoteEngine: an engine behind ``vidret serve``, with the local one's verbs.

Nothing here needs torch or a model: a program that only asks starts at once.
"""

import base64
import dataclasses
import io
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode, urlsplit

import numpy as np

from vidret.errors import VidretError
from vidret.store.records import StoredVideo, StoreInfo
from vidret.text import absolute_path, strip_query
from vidret.types import ALL_VIDEOS, Curve, Filters, Hit, Moment, Query, Segment

T = TypeVar("T")

RETRIES = 2  # of a request that a busy server turned away
PAGE = 500  # videos asked for at a time
LONGEST_SIDE = 1024  # of a picture that is sent: the server looks at no more
FACTS = {"width": "width", "height": "height", "average_rate": "fps"}  # what a store calls them, and what a server does


class RemoteError(VidretError):
    """Say why a server gives no answer, in its own sentence where it has one; ``status`` is HTTP's, where there is one.

    Also raised where nothing listens, or something that is no vidret.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        """Keep the status beside the sentence."""
        super().__init__(sentence)
        self.status = status


class RemoteEngine:
    """The engine of a ``vidret serve``: search, locate.

    A context manager that keeps one connection; use one in each thread. Paths in answers, and in ``folder``, are the
    server's.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0) -> None:
        """Name a server; it is first asked when a question is.

        Args:
            url: Where it listens, such as ``http://127.0.0.1:8000``.
            token: What it was started with as ``--token``.
            timeout: Seconds it may stay silent.

        Raises:
            VidretError: The URL is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # such as a port that is no number
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

    # Asking

    def search(
        self, query: Query, k: int = 10, *, rerank: str | None = "auto", filters: Filters = ALL_VIDEOS
    ) -> list[Hit]:
        """Find the videos that answer a query; see ``Engine.search``.

        Raises:
            RemoteError: The server gives no answer, or refuses the question.
        """
        body = {**_say_query(query), "k": k, "rerank": rerank or "none", **_say_filters(filters)}
        return self._ask("POST", "/api/search", lambda found: [_read_hit(row) for row in found["hits"]], body)

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
    ) -> list[Moment]:
        """Find the moments that answer a query, in one video or in all; see ``Engine.locate``.

        Raises:
            RemoteError: As in ``search``; or the server has no such video.
        """
        body = {**_say_query(query), "k": k, "videos": videos, **_say_filters(filters)}
        body |= {"overlapping": overlapping, "weak": weak}
        if video is not None:
            body["video"] = self._find_video(video)
        return self._ask("POST", "/api/locate", lambda found: [_read_moment(row) for row in found["moments"]], body)

    def curve(self, query: Query, video: str | os.PathLike[str] | int) -> Curve:
        """Score a query against every stored frame of one video.

        Raises:
            RemoteError: As in ``locate``.
        """
        path = f"/api/videos/{self._find_video(video)}/curve"
        if isinstance(query, str):
            return self._ask("GET", f"{path}?{_say({'q': query})}", _read_curve)
        return self._ask("POST", path, _read_curve, _say_query(query))

    def videos(self, filters: Filters = ALL_VIDEOS) -> list[StoredVideo]:
        """List the videos of the index, in the order of their first paths.

        Raises:
            RemoteError: The server gives no answer.
        """
        found: list[StoredVideo] = []
        while True:
            asked = _say({"offset": len(found), "limit": PAGE, **_say_filters(filters)})
            page = self._ask("GET", f"/api/videos?{asked}", lambda page: [_read_video(row) for row in page["videos"]])
            found += page
            if len(page) < PAGE:
                return found

    def video(self, number: int) -> StoredVideo:
        """Give one video by its id.

        Raises:
            RemoteError: The server gives no answer, or has no such video.
        """
        return self._ask("GET", f"/api/videos/{number}", _read_video)

    def info(self) -> StoreInfo:
        """Describe the index in numbers.

        Raises:
            RemoteError: The server gives no answer.
        """
        names = [field.name for field in dataclasses.fields(StoreInfo)]
        return self._ask("GET", "/api/index", lambda told: StoreInfo(**{name: told["info"][name] for name in names}))

    def failed(self) -> list[tuple[str, str]]:
        """List the files that could not be indexed, each with its reason.

        Raises:
            RemoteError: The server gives no answer.
        """
        return self._ask("GET", "/api/index", lambda told: [(row["path"], row["reason"]) for row in told["failures"]])

    # The wire

    def _find_video(self, video: str | os.PathLike[str] | int) -> int:
        """Give a video's id; a path is made absolute as it is for a local engine."""
        if isinstance(video, int):
            return video
        path = absolute_path(video)
        found = next((each.id for each in self.videos(Filters(folder=path)) if path in each.paths), None)
        if found is None:
            raise RemoteError(f"{strip_query(os.fspath(video))}: not in the index of {self.url}")
        return found

    def _ask(self, method: str, path: str, read: Callable[[Any], T], body: dict[str, Any] | None = None) -> T:
        """Send a request and read its answer.

        Raises:
            RemoteError: There is no answer, or it is no vidret's, or it says what is wrong.
        """
        sent = None if body is None else json.dumps(body).encode()
        response, content = self._send_patiently(method, self._root + path, sent)
        status, kind = response.status, response.headers.get_content_type()
        if status == 401:
            given = "another" if "Authorization" in self._headers else "none"
            raise RemoteError(f"{self.url}: wants the token it was started with, got {given}", status)
        try:
            answer = json.loads(content)
            if status == 200:
                return read(answer)
            if kind == "application/problem+json":
                raise RemoteError(str(answer["detail"]), status)
        except (ValueError, KeyError, TypeError):
            pass  # told below
        raise RemoteError(f"{self.url}: does not answer as vidret serve does, got {status} {response.reason}", status)

    def _send_patiently(self, method: str, path: str, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        """Send a request, and again after the seconds that a busy server names."""
        for _ in range(RETRIES):
            response, content = self._send(method, path, body)
            wait = response.headers.get("Retry-After", "")
            if response.status != 503 or not wait.isdecimal() or int(wait) > self._timeout:
                return response, content
            time.sleep(int(wait))
        return self._send(method, path, body)

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[HTTPResponse, bytes]:
        kept = self._connection.sock is not None
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            return response, response.read()
        except TimeoutError:
            self._connection.close()
            raise RemoteError(f"{self.url}: no answer within {self._timeout:g} s") from None
        except (OSError, HTTPException) as error:
            self._connection.close()
            if kept:  # the server closed it while nobody asked
                return self._send(method, path, body)
            if isinstance(error, HTTPException):
                raise RemoteError(f"{self.url}: does not answer as vidret serve does: {error}") from error
            raise RemoteError(f"{self.url}: no server answers: {error}") from error


def _say(fields: dict[str, Any]) -> str:
    return urlencode(fields, errors="replace")  # what is no text is in no answer either


def _say_query(query: Query) -> dict[str, Any]:
    if isinstance(query, str):
        return {"query": query}
    if query.ndim != 3 or query.shape[2] != 3 or query.dtype != np.uint8 or not query.size:
        raise VidretError(f"image must be uint8 (height, width, 3), got {query.dtype} {query.shape}")
    from PIL import Image  # here, since words need none

    out, picture = io.BytesIO(), Image.fromarray(query)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    picture.save(out, "PNG")
    return {"image": base64.b64encode(out.getvalue()).decode()}


def _say_filters(filters: Filters) -> dict[str, Any]:
    """Give what is asked for, dates in ISO."""
    asked = {name: value for name, value in dataclasses.asdict(filters).items() if value is not None}
    for name in asked.keys() & {"after", "before"}:
        asked[name] = datetime.fromtimestamp(asked[name], UTC).isoformat()
    return asked


def _read_hit(row: dict[str, Any]) -> Hit:
    return Hit(
        row["video"],
        row["path"],
        Segment(row["video"], row["segment"], row["start"], row["end"]),
        row["time"],
        row["score"],
        row["weak"],
        tuple(row["copies"]),
        row["why"],
    )


def _read_moment(row: dict[str, Any]) -> Moment:
    return Moment(**{field.name: row[field.name] for field in dataclasses.fields(Moment)})


def _read_curve(found: dict[str, Any]) -> Curve:
    scores, times = np.array(found["scores"], np.float32), np.array(found["times"], np.float64)
    return Curve(scores, times, found["start"], found["end"], found["best"], found["typical"])


def _read_video(row: dict[str, Any]) -> StoredVideo:
    return StoredVideo(
        row["id"],
        (row["path"], *row["copies"]),
        row["duration"],
        {name: row[told] for name, told in FACTS.items() if row[told] is not None},
        row["complete"],
        row["salvaged"],
        row["segments"],
        None if row["changed"] is None else datetime.fromisoformat(row["changed"]).timestamp(),
    )
