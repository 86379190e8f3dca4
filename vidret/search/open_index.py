"""An index open for queries."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vidret.channels.base import EncodedQuery
from vidret.channels.picture.channel import PictureChannel
from vidret.channels.sounds.channel import open_sounds
from vidret.channels.texts.channel import TextChannel
from vidret.encode.encoder import Encoder
from vidret.errors import StoreError, VidretError
from vidret.search.concepts.encoder import ConceptEncoder
from vidret.search.found_videos import FoundVideo
from vidret.search.fused_results import FusedResults
from vidret.search.heads.base import MomentHead
from vidret.search.locating import choose_video, rate_video, read_curve
from vidret.search.models import Models
from vidret.search.people import KnownPersons
from vidret.search.query.clauses import AnalysedQuery, make_structure
from vidret.search.query.grammar import Interpretation, interpret
from vidret.search.query.planning import encode_queries
from vidret.store.joined.texts import open_texts
from vidret.store.lookup import look_up_video
from vidret.store.store import Store
from vidret.text import strip_query
from vidret.types import SOURCES, Curve, Hit, LocateOptions, Moment, Query, SearchOptions, Source, VideoName
from vidret.types import Sequence as EventSequence

if TYPE_CHECKING:
    from vidret.search.browsing.explorer import Explorer
    from vidret.search.edges import EdgeRefiner

logger = logging.getLogger(__name__)

MAX_TOGETHER = 16  # queries that are asked of a video at a time


class OpenIndex:
    """The channels of an index, open for queries."""

    def __init__(self, store: Store, encoder: Encoder, models: Models) -> None:
        self.store = store
        self.encoder, self._plain_encoder = ConceptEncoder(encoder, store), encoder
        self.pictures = PictureChannel(store, self.encoder, models.ranker, tokens=models.tokens)
        self._refiner: EdgeRefiner | None = None
        self.people = KnownPersons(store)
        self._wordless = FusedResults(self.pictures, None, self.encoder, self.people)
        self._words: FusedResults | None = None

    @property
    def results(self) -> FusedResults:
        """What answers queries; a run may add words meanwhile."""
        if self._words is None and (texts := open_texts(self.store)) is not None:
            texts_channel, sounds = TextChannel(texts, self.store), open_sounds(self.store)
            self._words = FusedResults(self.pictures, texts_channel, self.encoder, self.people, sounds)
        return self._words or self._wordless

    @property
    def has_words(self) -> bool:
        """Whether queries are compared with words."""
        return self.results is not self._wordless

    @cached_property
    def explorer(self) -> "Explorer":
        """What is in the index, without a query."""
        from vidret.search.browsing.explorer import Explorer

        return Explorer(self.store)

    def interpret(self, query: str | EventSequence, sources: Sequence[Source] | None) -> Interpretation:
        """Return how a query is understood; what is said or shown exactly so is searched as plain words."""
        return self.results.interpret(query, sources)

    def close(self) -> None:
        """Close the index and its words, and end the process that decodes frames for edges."""
        if self._words is not None:
            self._words.close()
        if self._refiner is not None:
            self._refiner.close()
        self.store.close()

    def search(self, queries: Sequence[Query], options: Sequence[SearchOptions]) -> list[list[Hit]]:
        """Return the hits of several searches; see ``Engine.search_many``."""
        asked = [self.results.complete(query, each) for query, each in zip(queries, options, strict=True)]
        for query, each in asked:
            self._check(query, each)
        return [self.results.search(query, each) for query, each in asked]

    def find(self, query: Query, options: SearchOptions) -> list[FoundVideo]:
        """Return the videos that ``search`` finds, with all that their probabilities are computed from."""
        self._check(query, options)
        return self.results.find(query, options)

    def locate_many(
        self, queries: Sequence[Query], videos: Sequence[int], options: LocateOptions, *, grounder: MomentHead | None
    ) -> list[list[list[Moment]]]:
        """Return the best moments of each query in each of some videos, given by their ids.

        The frames of a video are read once for ``MAX_TOGETHER`` queries.
        """
        found: list[list[list[Moment]]] = []
        for first in range(0, len(queries), MAX_TOGETHER):
            batch = [self._analyse(query, options) for query in queries[first : first + MAX_TOGETHER]]
            found += [[] for _ in batch]
            for video in videos:
                for index, query in enumerate(batch, start=first):
                    found[index].append(self._locate(query, options, video=video, grounder=grounder))
        return found

    def locate(
        self, query: Query, options: LocateOptions, *, video: VideoName | None, grounder: MomentHead | None
    ) -> list[Moment]:
        """Return the best moments in one video, or in the best videos of a search."""
        return self._locate(self._analyse(query, options), options, video=video, grounder=grounder)

    def _analyse(self, query: Query, options: LocateOptions) -> AnalysedQuery:
        self._check(query, SearchOptions(sources=options.sources, person=options.person))
        return self.results.analyse(query, options.sources, options.person)

    def _locate(
        self, query: AnalysedQuery, options: LocateOptions, *, video: VideoName | None, grounder: MomentHead | None
    ) -> list[Moment]:
        search = SearchOptions(k=options.videos, filters=options.filters, sources=options.sources)
        if query.has_mentions:
            grounder = None  # a head reads text
        ranked = [choose_video(self.store, video)] if video is not None else self.results.rank_videos(query, search)
        moments = self.results.locate(query, ranked, options, grounder)
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
        if self._refiner is None:
            from vidret.search.edges import EdgeRefiner

            self._refiner = EdgeRefiner(self._plain_encoder)
        return self._refiner.refine(moments, curves, self._sizes(moments))

    def _sizes(self, moments: Sequence[Moment]) -> dict[str, int]:
        """Return the bytes of the files of some moments when they were indexed, by path."""
        records = {path: self.store.files.get(path) for path in {moment.path for moment in moments}}
        return {
            path: record.num_bytes
            for path, record in records.items()
            if record is not None and record.num_bytes is not None
        }

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
            raise StoreError(f"{strip_query(str(video))}: no segment is stored yet")
        texts = self.results.list_curve_texts(self.results.analyse(query, None), video_id) if self.has_words else ()
        return replace(read[0], texts=texts)

    def _encode(self, query: Query) -> EncodedQuery:
        query = self.people.hide_names(query)
        self.encoder.check_mentions(query)
        return encode_queries([query], self.encoder, self.encoder.composer)[0]

    def _check(self, query: Query, options: SearchOptions) -> None:
        """Check that the index can answer a query.

        Raises:
            VidretError: A source or a person is unknown; words are asked for, and the index has none, or the query has
                none to compare with them; or it excludes what it looks for, or mentions an unknown concept.
        """
        sources = options.sources
        if sources is not None and (not sources or not set(sources) <= set(SOURCES)):
            raise VidretError(f"sources must be some of {', '.join(SOURCES)}, got {', '.join(sources) or 'none'}")
        named = self.people.name_handles(query)
        handles = self.people.find_handles(named)
        self.encoder.check_mentions(named, handles)
        self.people.read_names(options.person)
        if sources is not None and "picture" not in sources:
            if not self.has_words:
                raise self._explain_wordless()
            if not isinstance(named, str | EventSequence):
                raise VidretError("sources must include picture for an image or a vector, got words only")
            make_structure(interpret(named), handles).check_words(self._find_heard(sources))
        elif sources not in (None, ("picture",)) and not self.has_words:
            raise self._explain_wordless()

    def _find_heard(self, sources: Sequence[Source]) -> Callable[[str], bool]:
        """Return what tells whether a text mentions a sound that is searched."""
        return lambda text: "sound" in sources and len(self.encoder.find_sounds(text)) > 0

    def _explain_wordless(self) -> VidretError:
        paths = ", ".join(str(index.path) for index in self.store.parts.values())
        return VidretError(f"{paths}: has no words to search: run vidret index --words on")
