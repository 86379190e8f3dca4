"""The methods that search an index, which ``Engine`` and ``RemoteEngine`` share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from vidret.types.media import Source
from vidret.types.queries import ALL_VIDEOS, CANDIDATES, Filters, LocateOptions, Query, SearchOptions, VideoName
from vidret.types.results import Hit, Moment


class Searchable(ABC):
    """An index to search for videos and moments, on this machine or through a server."""

    @abstractmethod
    def search_with(self, query: Query, options: SearchOptions) -> list[Hit]:
        """Find the videos that match a query, as ``search`` does, with all options in one object."""

    @abstractmethod
    def locate_with(self, query: Query, options: LocateOptions, *, video: VideoName | None = None) -> list[Moment]:
        """Find the moments that match a query, as ``locate`` does, with all options in one object."""

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        offset: int = 0,
        at_least: float = 0.0,
        candidates: int = CANDIDATES,
        rerank: str | None = "auto",
        refine: bool = False,
        filters: Filters = ALL_VIDEOS,
        sources: Sequence[Source] | None = None,
    ) -> list[Hit]:
        """Find the videos that match a query.

        Args:
            query: Words, of which ``-word`` and ``-"some words"`` are negative terms and ``@name`` a taught concept.
                They may name several events, ``"A, then B while C, no D"``; or a ``Sequence``; or an image, uint8
                (height, width, 3); a ``ComposedQuery`` of images and words; or, on this machine, a vector of the
                encoder, of any length. In an index that has words, a text query is also compared with what is said and
                shown, and ``"some words"`` must be said or shown as they are.
            k: Maximum number of videos.
            offset: Number of best videos to skip, as for the next page.
            at_least: Minimum probability, in 0..1; it leaves results out, and changes no ranking.
            candidates: Number of nearest segments to rerank. If they belong to fewer than ``k`` videos, the best few
                segments of each further video are added.
            rerank: ``ucofia``, ``glscl``, None for the best frames alone, or ``auto`` for what the index was built for.
                Queries without words use the best frames in any case. Anything but ``auto`` compares pictures alone.
            refine: Whether to order the best videos anew by their likeness to each other (SuperGlobal). It finds more
                of a kind, and a single video less surely. Compares pictures alone.
            filters: Videos to search.
            sources: What to compare a text query with: ``picture``, ``speech``, ``screen``, ``subtitles``; None for
                everything that the index has.

        Returns:
            Hits, best first, one per video with its best segment. Videos whose files are missing are omitted. A
            hit without a probability is that of an image or a vector, whose scores are compared with nothing.

        Raises:
            VidretError: The query is empty, k is below 1, or there is no index; or a probability is asked for, and the
                query has none.
            RemoteError: The server does not answer, or rejects the request.
        """
        chosen = None if sources is None else tuple(sources)
        options = SearchOptions(
            k=k,
            offset=offset,
            at_least=at_least,
            candidates=candidates,
            rerank=rerank,
            refine=refine,
            filters=filters,
            sources=chosen,
        )
        return self.search_with(query, options)

    def locate(
        self,
        query: Query,
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
    ) -> list[Moment]:
        """Find the moments that match a query, in one video or in all.

        Args:
            query: As in ``search``.
            k: Maximum number of moments.
            offset: Number of best moments to skip.
            at_least: As in ``search``; the probability of a moment is that of its video.
            video: Path or id of a single video; None for all.
            videos: Number of best videos to locate moments in.
            filters: Videos to search.
            overlapping: Whether to include moments that overlap better ones: the ranked list of benchmarks.
            weak: Whether to include moments that stand out less than half as much as the best of their video.
            snap: Whether moments that are found by the curve begin and end at cuts where they can.
            refine_edges: Whether to decode and encode a few frames more around their other edges, which makes these
                precise to about 0.1 s. A message says where that is not possible.
            sources: As in ``search``.

        Returns:
            Moments, best first; each states whether the curve or a trained head found it. If the whole curve of a video
            is above what few unrelated queries reach, the video is one moment, unless ``overlapping``.

        Raises:
            VidretError: The query is empty, k is below 1, or the video is not in the index; or as in ``search``.
            RemoteError: As in ``search``.
        """
        chosen = None if sources is None else tuple(sources)
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
            sources=chosen,
        )
        return self.locate_with(query, options, video=video)
