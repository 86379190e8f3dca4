"""An index open for queries."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vidret.channels.base import EncodedQuery
from vidret.channels.picture.channel import PictureChannel
from vidret.encode.encoder import Encoder
from vidret.errors import StoreError
from vidret.search.concepts.encoder import ConceptEncoder
from vidret.search.concepts.storage import check_mentions
from vidret.search.fusion import Fusion
from vidret.search.heads.base import MomentHead
from vidret.search.hits import FoundVideo, VideoSearch
from vidret.search.locating import RankedVideo, choose_video, list_curve_texts, locate_moments, rate_video, read_curve
from vidret.search.models import Models
from vidret.search.people import KnownPersons
from vidret.search.query.clauses import AnalysedQuery
from vidret.search.query.grammar import Interpretation
from vidret.search.query.planning import embed_query, interpret_for
from vidret.store.lookup import look_up_video
from vidret.store.store import Store
from vidret.text import strip_query
from vidret.types import Curve, Hit, LocateOptions, Moment, Query, SearchOptions, Source, VideoName
from vidret.types import Sequence as EventSequence

if TYPE_CHECKING:
    from vidret.search.browsing import Explorer
    from vidret.search.edges import EdgeRefiner

logger = logging.getLogger(__name__)

MAX_TOGETHER = 16  # queries that are asked of a video at a time


class OpenIndex:
    """An index open for queries."""

    def __init__(self, store: Store, encoder: Encoder, models: Models) -> None:
        self.store = store
        self.encoder = ConceptEncoder(encoder, store)
        self.pictures = PictureChannel(store, self.encoder, models.ranker, tokens=models.tokens)
        self.fusion = Fusion(self.pictures, self.encoder, KnownPersons(store))
        self._search = VideoSearch(self.fusion)
        self._refiner: EdgeRefiner | None = None
        self._refining = threading.Lock()

    @cached_property
    def explorer(self) -> "Explorer":
        """What is in the index, without a query."""
        from vidret.search.browsing import Explorer

        return Explorer(self.store)

    def close(self) -> None:
        """Close the index and its words, and end the process that decodes frames for edges."""
        self.fusion.close()
        if self._refiner is not None:
            self._refiner.close()
        self.store.close()

    def interpret(self, query: str | EventSequence, sources: Sequence[Source] | None) -> Interpretation:
        """Return how a query is understood; what is said or shown exactly so is searched as plain words."""
        return interpret_for(self.fusion.people.name_handles(query), sources, self.fusion.texts)

    def search(self, queries: Sequence[Query], options: Sequence[SearchOptions]) -> list[list[Hit]]:
        """Return the hits of several searches; see ``Engine.search_many``."""
        asked = [self._complete(query, own) for query, own in zip(queries, options, strict=True)]
        analysed = [self.fusion.analyse(query, own.sources, own.person) for query, own in asked]
        return [self._search.find_hits(query, own) for query, (_, own) in zip(analysed, asked, strict=True)]

    def _complete(self, query: Query, options: SearchOptions) -> tuple[Query, SearchOptions]:
        """Return what to ask: instead of an empty query, what was liked, which was then not chosen among others."""
        if isinstance(query, str) and not query.strip() and options.like:
            feedback = self.fusion.segments.read_feedback(options.like, ())
            return feedback.liked.mean(axis=0), replace(options, seen=options.seen or ())
        return query, options

    def find(self, query: Query, options: SearchOptions) -> list[FoundVideo]:
        """Return the videos that ``search`` finds, with all that their probabilities are computed from."""
        return self._search.find(self.fusion.analyse(query, options.sources, options.person), options)[1]

    def locate_many(
        self,
        queries: Sequence[Query],
        videos: Sequence[int],
        options: LocateOptions,
        *,
        grounder: MomentHead | None,
        among_all: bool = False,
    ) -> list[list[list[Moment]]]:
        """Return the best moments of each query in each of some videos, given by their ids.

        The frames of a video are read once for ``MAX_TOGETHER`` queries. For ``among_all`` see ``Engine.locate_many``.
        """
        found: list[list[list[Moment]]] = []
        for first in range(0, len(queries), MAX_TOGETHER):
            together = queries[first : first + MAX_TOGETHER]
            batch = [self.fusion.analyse(query, options.sources, options.person) for query in together]
            found += [[] for _ in batch]
            for video in videos:
                for index, query in enumerate(batch, start=first):
                    moments = self._locate(query, options, video=video, grounder=grounder, among_all=among_all)
                    found[index].append(moments)
        return found

    def locate(
        self, query: Query, options: LocateOptions, *, video: VideoName | None, grounder: MomentHead | None
    ) -> list[Moment]:
        """Return the best moments in one video, or in the best videos of a search."""
        analysed = self.fusion.analyse(query, options.sources, options.person)
        return self._locate(analysed, options, video=video, grounder=grounder)

    def _locate(
        self,
        query: AnalysedQuery,
        options: LocateOptions,
        *,
        video: VideoName | None,
        grounder: MomentHead | None,
        among_all: bool = False,
    ) -> list[Moment]:
        if video is not None:
            ranked = [choose_video(self.store, video)]
        else:
            search = SearchOptions(k=options.videos, filters=options.filters, sources=options.sources)
            ranked = [
                RankedVideo(video_id=found.scores.video_id, path=found.paths[0], standard=found.standard)
                for found in self._search.find(query, search)[1]
            ]
        moments = locate_moments(self.fusion, query, ranked, options, grounder, among_all=among_all)
        return self._refine(query.encoded, moments) if options.refine_edges else moments

    def _refine(self, clauses: Sequence[EncodedQuery], moments: Sequence[Moment]) -> list[Moment]:
        """Return moments with precise edges; those of a query of several events stay as they are."""
        if len(clauses) > 1:
            logger.warning("edges are not refined: the query has several events")
            return list(moments)
        curves = {}
        for video_id in {moment.video for moment in moments if moment.by == "curve"}:
            read = read_curve(self.pictures, clauses[0], video_id)
            if read is not None:
                curves[video_id] = read
        records = [self.store.files.get(path) for path in {moment.path for moment in moments}]
        sizes = {record.path: record.num_bytes for record in records if record and record.num_bytes is not None}
        with self._refining:  # it remembers vectors, and drops them
            if self._refiner is None:
                from vidret.search.edges import EdgeRefiner

                self._refiner = EdgeRefiner(self.encoder)
            return self._refiner.refine(moments, curves, sizes)

    def rate(
        self, query: Query, video: VideoName, times: Float[np.ndarray, " time"], *, grounder: MomentHead | None
    ) -> Float[np.ndarray, " time"]:
        """Return the saliency of a video for a query at times in seconds, by a grounding head or the curve."""
        return rate_video(self.pictures, grounder, self._encode(query), choose_video(self.store, video), times)

    def curve(self, query: Query, video: VideoName) -> Curve:
        """Score a query against every stored frame of one video, and list the words that match it.

        Raises:
            StoreError: The index has nothing of the video.
        """
        video_id = look_up_video(self.store, video)
        read = read_curve(self.pictures, self._encode(query), video_id)
        if read is None:
            raise StoreError(f"{strip_query(choose_video(self.store, video).path)}: no segment is stored yet")
        texts = () if self.fusion.texts is None else list_curve_texts(self.fusion, self.fusion.analyse(query), video_id)
        return replace(read[0], texts=texts)

    def _encode(self, query: Query) -> EncodedQuery:
        query = self.fusion.people.name_handles(query)
        handles = self.fusion.people.find_handles(query)
        check_mentions(self.store, query, handles)
        return embed_query(query, self.encoder, handles)
