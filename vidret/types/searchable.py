"""The common methods of ``Engine`` and ``RemoteEngine``, with their documentation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

from vidret.types.collections import SavedCollection
from vidret.types.media import Shot, Source, TextSource, TimedText
from vidret.types.queries import (
    ALL_VIDEOS,
    CANDIDATES,
    Concept,
    Filters,
    LocateOptions,
    SearchOptions,
    TimePoint,
    VideoName,
)
from vidret.types.results import CopyGroup, Hit, Moment, SharedFootage

if TYPE_CHECKING:
    from vidret.types.arrays import Curve, ExampleLike, Query


class Searchable(ABC):
    """An index to search for videos and moments, on this machine or through a server."""

    @abstractmethod
    def search_with(self, query: "Query", options: SearchOptions) -> list[Hit]:
        """Find the videos that match a query, as ``search`` does, with all options in one object."""

    @abstractmethod
    def locate_with(self, query: "Query", options: LocateOptions, *, video: VideoName | None = None) -> list[Moment]:
        """Find the moments that match a query, as ``locate`` does, with all options in one object."""

    def search(
        self,
        query: "Query",
        k: int = 10,
        *,
        offset: int = 0,
        at_least: float = 0.0,
        candidates: int = CANDIDATES,
        rerank: str | None = "auto",
        refine: bool = False,
        filters: Filters = ALL_VIDEOS,
        sources: Sequence[Source] | None = None,
        person: str | None = None,
        like: Sequence[TimePoint] = (),
        unlike: Sequence[TimePoint] = (),
        seen: Sequence[TimePoint] | None = None,
        display: str = "best",
        sort_by: str | None = None,
        copies: str = "fold",
    ) -> list[Hit]:
        """Find the videos that match a query.

        Args:
            query: A text, a ``Sequence`` of events, an image, uint8 (height, width, 3), a ``ComposedQuery`` of images
                and words, or, on this machine, a vector of the encoder, of any length. In a text, ``-word`` and
                ``-"some words"`` are negative terms, and ``@name`` is a taught concept or a person. It may name several
                events: ``"A, then B while C, no D"``. In an index with words, it is also compared with what is said and
                shown, and ``"some words"`` must be said or shown literally.
            k: Maximum number of videos.
            offset: Number of best videos to skip, as for the next page.
            at_least: Minimum probability of a result, from 0 to 1; the ranking stays the same.
            candidates: Number of nearest segments to rerank. If they belong to fewer than ``k`` videos, the best few
                segments of each other video are added.
            rerank: ``ucofia``, ``glscl``, None for the best frames only, or ``auto`` for the ranker of the index.
                Queries without words always use the best frames. All values but ``auto`` compare only pictures.
            refine: Whether to rerank the best videos by their similarity to each other (SuperGlobal). It finds more
                videos of a kind, but a single video by text less reliably. Compares only pictures.
            filters: Videos to search.
            sources: Sources to search: ``picture``, ``speech``, ``screen``, ``subtitles``, ``sound``, ``generated``;
                None for all that the index has.
            person: Names of persons who are seen or heard, separated by commas, as with ``@name`` in the query.
            like: Results that resemble the target, as pairs of video and time in seconds. Every segment is scored again
                by the evidence of these choices for it (PicHunter); their order does not matter. The query may then be
                empty, which finds segments similar to the choices.
            unlike: Results that do not resemble the target.
            seen: Results that were shown and are not the target: other scenes of their videos come first. None for the
                first 20 results of the query without feedback, with which likes are compared.
            display: ``best`` for the best results, or ``diverse`` for the best one of each kind, for exploring.
            sort_by: An attribute, such as ``crowded``, two opposites, such as ``snowy/green``, or a taught ``@name``.
                Those of the best 200 that are not unlikely, or that score nearly as high as the best, are sorted by
                the strength of the attribute; the others follow.
            copies: ``fold`` to list results that show the same footage as one, with ``near_copies``, where frame
                vectors leave no doubt (``duplicates`` finds more), or ``show`` to list each.

        Returns:
            Hits, best first, one per video with its best segment. Videos whose files are missing are left out.
            Hits for an image or a vector have no probability, since their scores are not calibrated.

        Raises:
            VidretError: The query is empty, k is below 1, or there is no index; or a minimum probability is given, and
                results of the query have none.
            RemoteError: The server does not answer, or rejects the request.
        """
        options = SearchOptions(
            k=k,
            offset=offset,
            at_least=at_least,
            candidates=candidates,
            rerank=rerank,
            refine=refine,
            filters=filters,
            sources=_as_tuple(sources),
            person=person,
            like=_as_tuple(like),
            unlike=_as_tuple(unlike),
            seen=_as_tuple(seen),
            display=display,
            sort_by=sort_by,
            copies=copies,
        )
        return self.search_with(query, options)

    def locate(
        self,
        query: "Query",
        k: int = 5,
        *,
        offset: int = 0,
        at_least: float = 0.0,
        video: VideoName | None = None,
        videos: int = 10,
        filters: Filters = ALL_VIDEOS,
        overlapping: bool = False,
        weak: bool = False,
        snap: bool = True,
        refine_edges: bool = False,
        sources: Sequence[Source] | None = None,
        person: str | None = None,
        copies: str = "fold",
    ) -> list[Moment]:
        """Find the moments that match a query, in one video or in all.

        Args:
            query: As in ``search``.
            k: Maximum number of moments.
            offset: Number of best moments to skip.
            at_least: As in ``search``.
            video: Path or id of a single video; None for all.
            videos: Number of best videos to locate moments in.
            filters: Videos to search.
            overlapping: Whether to include moments that overlap better ones, as in the ranked lists of benchmarks.
            weak: Whether to include moments that stand out less than half as much as the best one of their video.
            snap: Whether to move the ends of moments that the curve found to nearby cuts.
            refine_edges: Whether to decode and encode a few more frames around the ends that are at no cut, which makes
                these precise to about 0.1 s. A message names the videos for which that is not possible.
            sources: As in ``search``.
            person: As in ``search``.
            copies: As in ``search``.

        Returns:
            Moments, best first; each states whether the curve, a trained head or words found it. If the whole curve of
            a video is above what few unrelated queries reach, the video is one moment, unless ``overlapping``.

        Raises:
            VidretError: The query is empty, k is below 1, or the video is not in the index; or as in ``search``.
            RemoteError: As in ``search``.
        """
        options = LocateOptions(
            k=k,
            offset=offset,
            at_least=at_least,
            videos=videos,
            filters=filters,
            overlapping=overlapping,
            weak=weak,
            snap=snap,
            refine_edges=refine_edges,
            sources=_as_tuple(sources),
            person=person,
            copies=copies,
        )
        return self.locate_with(query, options, video=video)


def _as_tuple(values: Any) -> Any:
    """Return a list as a tuple; anything else unchanged, for ``check_options`` to refuse."""
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else values


class VideoLibrary(Searchable):
    """The other common methods of ``Engine`` and ``RemoteEngine``: footage, concepts, collections, contents.

    In a ``RemoteEngine``, paths are the server's, and each method raises ``RemoteError`` if the server does not answer
    or rejects the request.
    """

    @abstractmethod
    def close(self) -> None:
        """Close the index or the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
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
        """Find where videos show the same footage as a clip, even if it is cropped, mirrored, recoloured or sped up.

        Frame vectors find and align it; decoded frames confirm it, so that other footage of the place is not found.

        Args:
            clip: Path of a video, in the index or not, or the id of one of the index.
            k: Maximum number of results.
            start: Where the clip begins in that video, in seconds; None for its beginning.
            end: Where it ends; None for the end of the video.
            video: Path or id of the only video to look in; None for all.
            filters: Videos to look in.
            repeated: Whether to find all spans of each video, not only the best.

        Raises:
            DecodeError: The clip cannot be read.
            VidretError: The clip has no frame, or the encoder sees whole videos.
        """

    @abstractmethod
    def duplicates(
        self, paths: Sequence[VideoName] = (), *, on_progress: Callable[[int, int], None] | None = None
    ) -> list[CopyGroup]:
        """Find the files of the index that show the same footage; nothing is changed.

        Copies may be re-encoded, trimmed, cropped, mirrored, recoloured, watermarked, sped up or part of a longer film.

        Args:
            paths: Files, folders or ids to find copies of, anywhere in the index; none for all.
            on_progress: Called with the number of pairs of videos checked and the total.

        Raises:
            VidretError: A path is not in the index, or the encoder sees whole videos.
        """

    @abstractmethod
    def curve(self, query: "Query", video: VideoName) -> "Curve":
        """Score a query against every stored frame of one video."""

    @abstractmethod
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
        """Teach a concept by examples, and store it in the index: ``@name`` then stands for it in any text query.

        Args:
            name: A letter, then letters, digits, _ or -; upper and lower case are equal.
            yes: One or more examples: paths of images or of videos of the index, images, hits (their best segments),
                moments, or ``ConceptExample``, which can be a span of a video.
            no: Counterexamples, ideally similar to it.
            text: Text that the encoder reads in place of ``@name``; the name by default.
            replace: Whether to replace a concept of that name.
            add: Whether to add the examples to those of a concept of that name, if there is one; ``yes`` may then be
                empty. A span that is an example already changes sides.

        Raises:
            VidretError: There is no example, one cannot be read, or the name is invalid or taken.
            StoreError: Another process is writing the index.
        """

    @abstractmethod
    def concepts(self) -> list[Concept]:
        """Return the taught concepts, by name."""

    @abstractmethod
    def forget(self, name: str) -> None:
        """Remove a taught concept.

        Raises:
            VidretError: No concept has this name.
            StoreError: Another process is writing the index.
        """

    @abstractmethod
    def collections(self) -> list[SavedCollection]:
        """Return the saved searches and the lists of moments, by name."""

    @abstractmethod
    def collection(self, name: str) -> SavedCollection:
        """Return a collection.

        Raises:
            VidretError: No collection has this name.
        """

    def collect(self, name: str) -> list[Hit] | list[Moment]:
        """Return the current contents of a collection: results of a saved search, or moments of a list, in its order.

        Moments whose videos are not in the index are left out here; ``collection`` has them.

        Raises:
            VidretError: No collection has this name, or the search fails.
        """
        collection = self.collection(name)
        if not collection.finds:
            return collection.list_moments()
        options = collection.read_options()
        if isinstance(options, LocateOptions):
            return self.locate_with(collection.query, options)
        return self.search_with(collection.query, options)

    @abstractmethod
    def save_collection(self, collection: SavedCollection) -> SavedCollection:
        """Store a list, or a search from ``SavedCollection.of_search``, in the index; return the stored collection.

        It replaces the one of the same name and ``revision``; a new one has revision 0.

        Raises:
            ConflictError: There is a collection of that name with another revision.
            VidretError: The name, the query, an option or a moment is invalid.
        """

    @abstractmethod
    def add_to_list(self, name: str, results: Sequence[Hit | Moment]) -> SavedCollection:
        """Add moments, or the best segments of hits, to the end of a list, which is created if needed.

        Raises:
            VidretError: The name is invalid or that of a saved search, or the index does not have a video.
        """

    @abstractmethod
    def remove_collection(self, name: str) -> None:
        """Remove a saved search or a list; videos stay.

        Raises:
            VidretError: No collection has this name.
        """

    @abstractmethod
    def transcript(
        self, video: VideoName, sources: Sequence[TextSource] | None = None, *, unnamed: bool = False
    ) -> list[TimedText]:
        """Return what is said and shown in a video, by time; empty if the index has no words of it.

        Args:
            video: Path or id of the video.
            sources: ``speech``, ``screen``, ``subtitles``, ``generated`` and ``sound``; None for all but sounds.
            unnamed: Whether to distinguish speakers without a name, as ``person-7``.

        Raises:
            VidretError: The index does not have the video, or there is no such source.
        """

    @abstractmethod
    def shots(self, video: VideoName) -> list[Shot]:
        """Return the shots of the indexed part of a video, by time; empty if it was indexed without shots.

        Raises:
            VidretError: The index does not have the video.
        """
