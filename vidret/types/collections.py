"""Collections: saved searches, and lists of moments picked by hand."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from vidret.types.options import build_options, flatten_options, list_options
from vidret.types.queries import LocateOptions, SearchOptions
from vidret.types.results import Hit, Moment
from vidret.types.rows import Shown

Finds = Literal["", "videos", "moments"]
LISTED = "list"  # ``Moment.by`` of a moment picked by hand
OPTIONS: Mapping[str, type[SearchOptions] | type[LocateOptions]] = {"videos": SearchOptions, "moments": LocateOptions}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedMoment:
    """A moment of a list. It stays in the list when its video is removed from the index.

    Attributes:
        content: Fingerprint of the video's content, by which it is found again after its file was moved.
        path: Path of its file; the last known path if the index no longer has the video.
        start: Start in seconds.
        end: End in seconds, after ``start``.
        note: The user's note; may be empty.
        video: Id of the video; None while the index does not have it.
    """

    content: Annotated[str, Shown(example="7f3c0a")]
    path: Annotated[str, Shown(holds="path", example="/videos/beach.mp4")]
    start: Annotated[float, Shown(example=25.0)]
    end: Annotated[float, Shown(example=31.5)]
    note: Annotated[str, Shown(example="use this take")] = ""
    video: Annotated[int | None, Shown(example=7)] = None

    @classmethod
    def of_result(cls, result: Hit | Moment) -> "ListedMoment":
        """Return a result as a listed moment; for a hit, its best segment."""
        span, note = (result.segment, "") if isinstance(result, Hit) else (result, result.note)
        return cls(content="", path=result.path, start=span.start, end=span.end, note=note, video=result.video)

    def as_moment(self) -> Moment:
        """Return the listed moment as a ``Moment`` for exports; its video must be in the index."""
        assert self.video is not None
        return Moment(self.video, self.path, self.start, self.end, 0.0, by=LISTED, note=self.note)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCollection:
    """A saved search, which runs again whenever it is opened, or a list of moments in an order chosen by the user.

    Attributes:
        name: Name of the collection.
        finds: What a saved search finds: ``videos`` or ``moments``; empty for a list.
        query: Text of a saved search; empty for a list.
        options: Options of a saved search that differ from the defaults, by name, as in ``SearchOptions`` or
            ``LocateOptions``.
        moments: Moments of a list, in its order; empty for a saved search.
        revision: Number of changes so far; a change must name the revision that it replaces.
    """

    name: Annotated[str, Shown(example="highlights")]
    finds: Annotated[Finds, Shown(example="")] = ""
    query: Annotated[str, Shown(example="a dog on a beach")] = ""
    options: Annotated[Mapping[str, Any], Shown(example={"k": 20})] = field(default_factory=dict)
    moments: tuple[ListedMoment, ...] = ()
    revision: Annotated[int, Shown(example=1)] = 0

    @classmethod
    def of_search(cls, name: str, query: str, options: SearchOptions | LocateOptions) -> "SavedCollection":
        """Return a saved search."""
        values = flatten_options(options)
        changed = {
            named.name: values[named.name]
            for named in list_options(type(options))
            if values[named.name] != named.default
        }
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()}
        finds: Finds = "videos" if isinstance(options, SearchOptions) else "moments"
        return cls(name=name, finds=finds, query=query, options=plain)

    def list_moments(self) -> list[Moment]:
        """Return the moments of a list whose videos are in the index."""
        return [moment.as_moment() for moment in self.moments if moment.video is not None]

    def read_options(self) -> SearchOptions | LocateOptions:
        """Return the options of a saved search."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in self.options.items()}
        return build_options(OPTIONS[self.finds], values)


def as_moments(results: Iterable[Hit | Moment]) -> list[Moment]:
    """Return results as moments for exports; for a hit, its best segment."""
    shared = ("video", "path", "score", "weak", "evidence", "events", "probability")
    return [
        result
        if isinstance(result, Moment)
        else Moment(
            start=result.segment.start, end=result.segment.end, **{name: getattr(result, name) for name in shared}
        )
        for result in results
    ]
