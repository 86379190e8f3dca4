"""Frozen values shared by all rooms, and the methods that search: arrays in numpy, times in seconds.

Nothing here imports torch, so that decoding processes start quickly and stay small. Inside an ``nn.Module`` values are
plain tensors; ``Encoder`` and ``Store`` convert.
"""

from vidret.types.concepts import Concept, ConceptExample, ExampleLike, as_example
from vidret.types.copies import CopiedFile, CopyGroup, SharedFootage
from vidret.types.embeddings import (
    EmbeddingLevel,
    Embeddings,
    LayerTokens,
    LayerWords,
    SegmentEmbedding,
    TextEmbedding,
    Vector,
)
from vidret.types.media import (
    NO_TIME,
    SHOT_KINDS,
    SOURCES,
    TEXT_SOURCES,
    WORD_SOURCES,
    Frames,
    Interpolation,
    Picture,
    Resize,
    Sampling,
    Segment,
    Shot,
    ShotChange,
    ShotKind,
    Source,
    TextSource,
    TimedText,
)
from vidret.types.options import NamedOption, Option, build_options, flatten_options, list_options
from vidret.types.queries import (
    ALL_VIDEOS,
    CANDIDATES,
    ComposedQuery,
    Filters,
    LocateOptions,
    Query,
    SearchOptions,
    VideoName,
)
from vidret.types.results import Curve, Evidence, Hit, Moment
from vidret.types.searchable import Searchable
from vidret.types.sequence import MAX_EVENTS, MAX_QUERY_LENGTH, EventSpan, Sequence

__all__ = [
    "ALL_VIDEOS",
    "CANDIDATES",
    "MAX_EVENTS",
    "MAX_QUERY_LENGTH",
    "NO_TIME",
    "SHOT_KINDS",
    "SOURCES",
    "TEXT_SOURCES",
    "WORD_SOURCES",
    "ComposedQuery",
    "Concept",
    "ConceptExample",
    "CopiedFile",
    "CopyGroup",
    "Curve",
    "EmbeddingLevel",
    "Embeddings",
    "EventSpan",
    "Evidence",
    "ExampleLike",
    "Filters",
    "Frames",
    "Hit",
    "Interpolation",
    "LayerTokens",
    "LayerWords",
    "LocateOptions",
    "Moment",
    "NamedOption",
    "Option",
    "Picture",
    "Query",
    "Resize",
    "Sampling",
    "SearchOptions",
    "Searchable",
    "Segment",
    "SegmentEmbedding",
    "Sequence",
    "SharedFootage",
    "Shot",
    "ShotChange",
    "ShotKind",
    "Source",
    "TextEmbedding",
    "TextSource",
    "TimedText",
    "Vector",
    "VideoName",
    "as_example",
    "build_options",
    "flatten_options",
    "list_options",
]
