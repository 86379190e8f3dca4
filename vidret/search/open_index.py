"""An index open for queries. Pictures alone answer them, or pictures and words together."""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vidret.encode.encoder import Encoder
from vidret.errors import StoreError, VidretError
from vidret.search.clauses import check_exclusions, parse_structure
from vidret.search.concept_encoder import ConceptEncoder
from vidret.search.edges import EdgeRefiner
from vidret.search.fused_results import FusedResults, check_sources
from vidret.search.fusion import MAX_REMEMBERED
from vidret.search.grammar import Interpretation, interpret
from vidret.search.grounded import MomentHead
from vidret.search.locating import Locator, RankedVideo, choose_video, read_curve
from vidret.search.models import Models
from vidret.search.queries import EncodedQuery, encode_queries
from vidret.search.ranking import AUTO
from vidret.search.searcher import Searcher
from vidret.store.lookup import look_up_video
from vidret.store.store import Store
from vidret.store.text_store import TextStore
from vidret.text import strip_query
from vidret.types import Curve, Hit, LocateOptions, Moment, Query, SearchOptions, Source, VideoName
from vidret.types import Sequence as EventSequence

logger = logging.getLogger(__name__)

MAX_TOGETHER = MAX_REMEMBERED  # queries that are asked of a video at a time


class OpenIndex:
    """The pictures of an index, open for queries, and its words if it has any."""

    def __init__(self, store: Store, encoder: Encoder, models: Models) -> None:
        self.store = store
        self.encoder = ConceptEncoder(encoder, store)
        self.searcher = Searcher(store, self.encoder, models.ranker, tokens=models.tokens)
        self._fused: FusedResults | None = None
        self._refiner = EdgeRefiner(encoder)
        self._pictures: FusedResults | None = None

    @property
    def fused(self) -> FusedResults | None:
        """Search of pictures and words together; None in an index without words, which a run may add meanwhile."""
        if self._fused is None and TextStore.exists(self.store.path):
            self._fused = FusedResults(self.searcher, TextStore.open(self.store.path))
        return self._fused

    @property
    def _placed(self) -> FusedResults:
        """Search for several events; in an index without words by pictures alone."""
        if self._pictures is None:
            self._pictures = FusedResults(self.searcher, None)
        return self.fused or self._pictures

    def interpret(self, query: str | EventSequence, sources: Sequence[Source] | None) -> Interpretation:
        """Return how a query is understood; what is said or shown exactly so is searched as plain words."""
        return interpret(query) if self.fused is None else self.fused.interpret(query, sources)

    def close(self) -> None:
        """Close the index and its words, and end the process that decodes frames for edges."""
        if self._fused is not None:
            self._fused.close()
        self._refiner.close()
        self.store.close()

    def search(self, queries: Sequence[Query], options: Sequence[SearchOptions]) -> list[list[Hit]]:
        """Return the hits of several searches; see ``Engine.search_many``.

        Those of pictures alone are answered together.
        """
        hits: dict[int, list[Hit]] = {}
        for index, (query, each) in enumerate(zip(queries, options, strict=True)):
            self.encoder.check_mentions(query)
            fused = self._choose_fused(query, each)
            if fused is not None:
                assert isinstance(query, str | EventSequence)
                hits[index] = fused.search(query, each)
        rest = [index for index in range(len(queries)) if index not in hits]
        if rest:
            encoded = encode_queries([queries[index] for index in rest], self.encoder, self.encoder.composer)
            hits |= zip(rest, self.searcher.search(encoded, [options[index] for index in rest]), strict=True)
        return [hits[index] for index in range(len(queries))]

    def locate_many(
        self, queries: Sequence[Query], videos: Sequence[int], options: LocateOptions, *, grounder: MomentHead | None
    ) -> list[list[list[Moment]]]:
        """Return the best moments of each query in each of some videos, given by their ids.

        Each query is encoded once, and the frames of a video are read once for ``MAX_TOGETHER`` queries.
        """
        found: list[list[list[Moment]]] = []
        for first in range(0, len(queries), MAX_TOGETHER):
            batch = queries[first : first + MAX_TOGETHER]
            search = SearchOptions(sources=options.sources)
            encoded = [None if self._choose_fused(query, search) else self._encode(query) for query in batch]
            found += [[] for _ in batch]
            for video in videos:
                for index, (query, each) in enumerate(zip(batch, encoded, strict=True), start=first):
                    found[index].append(self.locate(query, options, video=video, grounder=grounder, encoded=each))
        return found

    def locate(
        self,
        query: Query,
        options: LocateOptions,
        *,
        video: VideoName | None,
        grounder: MomentHead | None,
        encoded: EncodedQuery | None = None,
    ) -> list[Moment]:
        """Return the best moments in one video, or in the best videos of a search; ``encoded`` is the query's."""
        if self.encoder.check_mentions(query):
            grounder = None  # a head reads text
        search = SearchOptions(k=options.videos, filters=options.filters, sources=options.sources)
        fused = self._choose_fused(query, search)
        if fused is None and encoded is None:
            encoded = self._encode(query)  # once for the search and its moments
        if video is not None:
            ranked = [choose_video(self.store, video)]
        elif fused is not None:
            assert isinstance(query, str | EventSequence)
            ranked = fused.rank_videos(query, search)
        else:
            assert encoded is not None
            hits = self.searcher.search([encoded], [search])[0]
            ranked = [RankedVideo(video_id=hit.video, path=hit.path, score=hit.score, weak=hit.weak) for hit in hits]
        if fused is not None:
            assert isinstance(query, str | EventSequence)
            moments = fused.locate(
                query,
                ranked,
                options.k,
                sources=options.sources,
                filters=options.filters,
                grounder=grounder,
                overlapping=options.overlapping,
                weak=options.weak,
                snap=options.snap,
            )
            return (
                self._refine(fused.encode_clause(query, options.sources), moments) if options.refine_edges else moments
            )
        assert encoded is not None
        moments = Locator(self.searcher, grounder).locate(
            encoded, ranked, options.k, overlapping=options.overlapping, weak=options.weak, snap=options.snap
        )
        return self._refine(encoded, moments) if options.refine_edges else moments

    def _refine(self, query: EncodedQuery | None, moments: Sequence[Moment]) -> list[Moment]:
        """Return moments with precise edges; those of a query of several events, which is None, stay as they are."""
        if query is None:
            logger.warning("edges are not refined: the query has several events")
            return list(moments)
        curves = {}
        for video_id in {moment.video for moment in moments if moment.by == "curve"}:
            read = read_curve(self.searcher, query, video_id)
            if read is not None:
                curves[video_id] = read
        return self._refiner.refine(moments, curves, self._sizes(moments))

    def _sizes(self, moments: Sequence[Moment]) -> dict[str, int]:
        """Return the bytes of the files of some moments when they were indexed, by path."""
        records = {path: self.store.file(path) for path in {moment.path for moment in moments}}
        return {
            path: record.num_bytes
            for path, record in records.items()
            if record is not None and record.num_bytes is not None
        }

    def rate(
        self, query: Query, video: VideoName, times: Float[np.ndarray, " time"], *, grounder: MomentHead | None
    ) -> Float[np.ndarray, " time"]:
        """Return the saliency of a video for a query at times in seconds, by a grounding head or the curve."""
        return Locator(self.searcher, grounder).rate(self._encode(query), choose_video(self.store, video), times)

    def curve(self, query: Query, video: VideoName) -> Curve:
        """Score a query against every stored frame of one video.

        Raises:
            StoreError: The index has nothing of the video.
        """
        video_id = look_up_video(self.store, video)
        curve = Locator(self.searcher, None).curve(self._encode(query), video_id)
        if curve is None:
            raise StoreError(f"{strip_query(str(video))}: no segment is stored yet")
        return curve

    def _encode(self, query: Query) -> EncodedQuery:
        self.encoder.check_mentions(query)
        return encode_queries([query], self.encoder, self.encoder.composer)[0]

    def _choose_fused(self, query: Query, options: SearchOptions) -> FusedResults | None:
        """Return the search of pictures and words if it answers a query, None if pictures alone do.

        Raises:
            VidretError: Words are asked for, and the index has none, or the query cannot be compared with words; or it
                excludes what it looks for.
        """
        structure = parse_structure(query) if isinstance(query, str | EventSequence) else None
        if structure is not None:
            check_exclusions(structure)
        check_sources(options.sources)
        words = options.sources is not None and options.sources != ("picture",)
        if words and self.fused is None:
            raise VidretError(f"{self.store.path}: has no words to search: run vidret index --words on")
        is_plain, is_text = options.rerank == AUTO and not options.refine, isinstance(query, str | EventSequence)
        got = "refine" if options.refine else f"rerank {options.rerank}"
        if isinstance(query, EventSequence) and not is_plain:
            raise VidretError(f"rerank must be {AUTO}, without refine, for events in order, got {got}")
        if words and not (is_text and is_plain):
            got = got if is_text else "an image or a vector"
            raise VidretError(f"sources must be picture for all but a text query with rerank {AUTO}, got {got}")
        if not is_plain or not isinstance(query, str | EventSequence):
            return None
        if structure is not None and options.sources is not None and "picture" not in options.sources:
            structure.check_words()
        if isinstance(query, EventSequence) or (structure is not None and structure.is_joint):
            return self._placed
        return None if options.sources == ("picture",) else self.fused
