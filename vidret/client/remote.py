"""``RemoteEngine``: the client of ``vidret serve``, with the methods of ``Engine``.

It loads neither torch nor a model, and imports quickly.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar
from urllib.parse import quote, urlencode

from typing_extensions import override

from vidret.client.messages import (
    encode_collection,
    encode_example,
    encode_fields,
    encode_listed,
    encode_options,
    encode_query,
    parse_answer,
    parse_failures,
    parse_found,
    parse_groups,
    parse_page,
    parse_rows,
    parse_video,
    read_values,
)
from vidret.client.server import RemoteError, RemoteMissingVideoError, Server
from vidret.errors import OptionError, StoreError, check_list
from vidret.store.rows_file import pick_collection
from vidret.text import absolute_path, strip_query
from vidret.types import (
    ALL_VIDEOS,
    Concept,
    CopyGroup,
    Filters,
    Hit,
    ListedMoment,
    LocateOptions,
    Moment,
    SavedCollection,
    SearchOptions,
    SharedFootage,
    Shot,
    TextSource,
    TimedText,
    VideoLibrary,
    VideoName,
    from_row,
)

if TYPE_CHECKING:
    from vidret.language.answers import CitedAnswer
    from vidret.language.endpoint import ChatEndpoint
    from vidret.language.retrieval import ContextOptions
    from vidret.store.records import StoredVideo, StoreInfo
    from vidret.types import Curve, ExampleLike, Query

T = TypeVar("T")
PAGE = 500  # videos per request
logger = logging.getLogger(__name__)


class RemoteEngine(VideoLibrary):
    """The engine of a ``vidret serve``: search, locate.

    A context manager with one connection; use one per thread. All paths, also in ``Filters.folder``, are the server's.
    The server's notes on a search are logged once each; ``notes`` holds those of the last search.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0) -> None:
        """Store the address of a server; it is first contacted by a request.

        Args:
            url: URL of the server, such as ``http://127.0.0.1:8000``.
            token: The ``--token`` that the server was started with.
            timeout: Maximum time in seconds until an answer is complete; for ``ask`` and ``duplicates``, until the next
                event or keep-alive.

        Raises:
            VidretError: The URL or the token is invalid.
        """
        self._server = Server(url, token, timeout)
        self.url = self._server.url
        self.notes: tuple[str, ...] = ()
        self._logged: set[str] = set()

    @override
    def close(self) -> None:
        self._server.close()

    # Methods of ``Engine``

    def ask(
        self,
        question: str,
        llm: "ChatEndpoint | None" = None,
        *,
        videos: Sequence[VideoName] = (),
        options: "ContextOptions | None" = None,
    ) -> "CitedAnswer":
        """Let a language model answer a question from the moments that a search finds, which it cites.

        Args:
            question: As in ``Engine.ask``.
            llm: The endpoint, asked by this process; None for the one that the server was started with.
            videos: As in ``Engine.ask``.
            options: How much is retrieved; None for the defaults of ``ContextOptions``.

        Raises:
            RemoteError: As in ``locate``; or the server was started without an endpoint, or its endpoint failed.
            EndpointError: The given endpoint does not answer.
        """
        from vidret.language.answers import answer_question
        from vidret.language.endpoint import NO_CACHE
        from vidret.language.retrieval import DEFAULT_CONTEXT, gather_context, make_rounds

        options = options or DEFAULT_CONTEXT
        if llm is not None:
            gather = partial(gather_context, self, question, videos, options, draw=self._draw_frame)
            context, find_more = make_rounds(question, options, llm, NO_CACHE, gather)
            return answer_question(context, llm, find_more)
        body = {"question": question, "videos": [self._find_video(video) for video in videos]}
        return self._server.follow("/api/ask", parse_answer, body | dataclasses.asdict(options))

    def _draw_frame(self, video: "StoredVideo", time_s: float, width: int) -> bytes:
        return self.frame(video.id, time_s, width)

    @override
    def search_with(self, query: "Query", options: SearchOptions) -> list[Hit]:
        fields = encode_options(options)
        rated = {name: fields[name] for name in ("like", "unlike", "seen") if name in fields}
        ids = {video: self._find_video(video) for video in {video for points in rated.values() for video, _ in points}}
        fields |= {name: [(ids[video], time_s) for video, time_s in points] for name, points in rated.items()}
        is_empty = isinstance(query, str) and not query.strip() and bool(options.like)
        body = ({} if is_empty else encode_query(query)) | fields
        return self._find("/api/search", parse_found("hits", Hit), body)

    @override
    def locate_with(self, query: "Query", options: LocateOptions, *, video: VideoName | None = None) -> list[Moment]:
        body = encode_query(query) | encode_options(options)
        if video is not None:
            body["video"] = self._find_video(video)
        return self._find("/api/locate", parse_found("moments", Moment), body)

    def _find(
        self, path: str, parse: Callable[[Any], tuple[list[T], tuple[str, ...]]], body: dict[str, Any]
    ) -> list[T]:
        """Return the results of a search; keep the server's notes, and log those that are new."""
        self.notes = ()
        results, self.notes = self._server.ask("POST", path, parse, body)
        for note in self.notes:
            sentence = note.partition(":")[0]  # the rest names the query
            if sentence not in self._logged:
                self._logged.add(sentence)
                logger.warning("%s", note)
        return results

    @override
    def find_footage(
        self,
        clip: VideoName,
        k: int = 10,
        *,
        start: float | None = None,
        end: float | None = None,
        video: VideoName | None = None,
        filters: Filters = ALL_VIDEOS,
        repeated: bool = False,
    ) -> list[SharedFootage]:
        spans = {"start": start, "end": end, "within": None if video is None else self._find_video(video)}
        body = {"video": self._find_video(clip), "k": k, "repeated": repeated} | encode_options(filters)
        body |= {name: value for name, value in spans.items() if value is not None}
        return self._server.ask("POST", "/api/footage", parse_rows("found", SharedFootage), body)

    @override
    def duplicates(
        self, paths: Sequence[VideoName] = (), *, on_progress: Callable[[int, int], None] | None = None
    ) -> list[CopyGroup]:
        from vidret.store.lookup import find_below

        check_list("paths", paths)
        try:
            below = [find_below(self.videos, path) for path in paths if not isinstance(path, SupportsIndex)]
        except StoreError as error:
            raise RemoteError(f"{self.url}: {error}") from error
        wanted = {index(path) for path in paths if isinstance(path, SupportsIndex)}
        wanted |= {video.id for found in below for video in found}
        body = {"videos": sorted(wanted)}
        return self._server.follow("/api/duplicates", lambda events: parse_groups(events, on_progress), body)

    @override
    def curve(self, query: "Query", video: VideoName) -> "Curve":
        from vidret.types import Curve

        path = f"/api/videos/{self._find_video(video)}/curve"
        parse = partial(from_row, Curve)
        if isinstance(query, str):
            return self._server.ask("GET", f"{path}?{encode_fields({'q': query})}", parse)
        return self._server.ask("POST", path, parse, encode_query(query))

    @override
    def teach(
        self,
        name: str,
        yes: "Sequence[ExampleLike]",
        no: "Sequence[ExampleLike]" = (),
        *,
        text: str | None = None,
        replace: bool = False,
        add: bool = False,
    ) -> Concept:
        check_list("yes", yes)
        check_list("no", no)
        body = {
            "name": name,
            "yes": [self._encode_example(example) for example in yes],
            "no": [self._encode_example(example) for example in no],
            "replace": replace,
            "add": add,
        }
        body |= {} if text is None else {"text": text}
        return self._server.ask("POST", "/api/concepts", partial(from_row, Concept), body)

    @override
    def concepts(self) -> list[Concept]:
        return self._server.ask("GET", "/api/concepts", parse_rows("concepts", Concept))

    @override
    def forget(self, name: str) -> None:
        self._server.ask("DELETE", f"/api/concepts/{_quote_name(name)}", lambda _answer: None)

    @override
    def collections(self) -> list[SavedCollection]:
        return self._server.ask("GET", "/api/collections", parse_rows("collections", SavedCollection))

    @override
    def collection(self, name: str) -> SavedCollection:
        return pick_collection(self.collections(), name)

    @override
    def save_collection(self, collection: SavedCollection) -> SavedCollection:
        return self._change_collection("PUT", collection.name, "", encode_collection(collection))

    @override
    def add_to_list(self, name: str, results: Sequence[Hit | Moment]) -> SavedCollection:
        check_list("results", results)
        moments = [encode_listed(ListedMoment.of_result(result)) for result in results]
        return self._change_collection("POST", name, "/moments", {"moments": moments})

    @override
    def remove_collection(self, name: str) -> None:
        self._server.ask("DELETE", f"/api/collections/{_quote_name(name)}", lambda _answer: None)

    def _change_collection(self, method: str, name: str, part: str, body: dict[str, Any]) -> SavedCollection:
        path = f"/api/collections/{_quote_name(name)}{part}"
        return self._server.ask(method, path, partial(from_row, SavedCollection), body)

    def _encode_example(self, example: "ExampleLike") -> dict[str, Any]:
        from vidret.types import as_example

        video_id = example.video if isinstance(example, Hit | Moment) else None
        given = as_example(example)
        if given.image is None and video_id is None:
            video_id = self._find_video(given.path)
        return encode_example(given, video_id)

    @override
    def transcript(
        self, video: VideoName, sources: Sequence[TextSource] | None = None, *, unnamed: bool = False
    ) -> list[TimedText]:
        check_list("sources", sources or ())
        path = f"/api/videos/{self._find_video(video)}/transcript"
        asked = {"sources": list(sources or ()), "unnamed": ["true"] * unnamed}
        query = f"?{urlencode(asked, doseq=True)}" if sources or unnamed else ""
        return self._server.ask("GET", path + query, parse_rows("texts", TimedText))

    @override
    def shots(self, video: VideoName) -> list[Shot]:
        path = f"/api/videos/{self._find_video(video)}/shots"
        return self._server.ask("GET", path, parse_rows("shots", Shot))

    def frame(self, video: VideoName, time_s: float, width: int = 320) -> bytes:
        """Return a JPEG of the frame of a video nearest to a time, at most ``width`` pixels wide.

        Raises:
            RemoteError: As in ``locate``; or the frame cannot be decoded.
        """
        query = encode_fields({"t": time_s, "w": width})
        return self._server.fetch_image(f"/api/thumbnails/{self._find_video(video)}?{query}")

    def videos(self, filters: Filters = ALL_VIDEOS) -> "list[StoredVideo]":
        """Return the searchable videos that match, in the order of their paths."""
        videos: list[StoredVideo] = []
        fields: dict[str, object] = {"limit": PAGE, **encode_options(filters)}
        while True:
            page, following = self._server.ask("GET", f"/api/videos?{encode_fields(fields)}", parse_page)
            videos += page
            if following is None:
                return videos
            if not page or following == fields.get("cursor"):  # else this would never end
                raise RemoteError(f"{self.url}: must be a vidret server, got the same page of videos again")
            fields["cursor"] = following

    def video(self, video: VideoName) -> "StoredVideo":
        """Return a searchable video by its id, its path or a unique ending of its path."""
        return self._server.ask("GET", f"/api/videos/{self._find_video(video)}", parse_video)

    def info(self) -> "StoreInfo":
        """Return statistics of the index."""
        from vidret.store.records import StoreInfo

        return self._server.ask(
            "GET", "/api/index", lambda answer: from_row(StoreInfo, *read_values({"info": Any}, answer))
        )

    def failed(self) -> list[tuple[str, str]]:
        """Return the paths of files that could not be indexed, with reasons; the server sends the first 1000."""
        return self._server.ask("GET", "/api/index", parse_failures)

    def _find_video(self, video: VideoName) -> int:
        """Return the id of a video by its id, its path or a unique ending of its path, as in ``Engine``."""
        if isinstance(video, SupportsIndex):  # an integer, also of NumPy
            return index(video)
        from vidret.store.lookup import find_by_ending, read_video_name, suggest_paths

        typed = read_video_name(video)
        path = absolute_path(typed)
        stored_video = next(
            (listed for listed in self.videos(Filters(folder=path)) if strip_query(path) in listed.paths), None
        )
        if stored_video is None:
            videos = self.videos()
            stored_video = find_by_ending(videos, typed)
            if stored_video is None:
                hint = suggest_paths(videos, typed)
                raise RemoteMissingVideoError(f"{strip_query(typed)}: not in the index of {self.url}{hint}")
        return stored_video.id


def _quote_name(name: str) -> str:
    """Return a name quoted as one part of a path; an empty name, or one with a slash, is refused."""
    if not name or "/" in name:
        raise OptionError(f"name must have a character and no slash, got {name!r}")
    return quote(name)
