"""Frozen values shared by all rooms: arrays in numpy, times in seconds.

Nothing here imports torch, so that decoding processes start quickly and stay small. Inside an ``nn.Module`` values are
plain tensors; ``Encoder`` and ``Store`` convert.
"""

from vidret.types.embeddings import LayerTokens, LayerWords, SegmentEmbedding, TextEmbedding, Vector
from vidret.types.media import (
    NO_TIME,
    SHOT_KINDS,
    SOURCES,
    TEXT_SOURCES,
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
from vidret.types.queries import ALL_VIDEOS, CANDIDATES, Filters, Query, SearchOptions
from vidret.types.results import Curve, Evidence, Hit, Moment

__all__ = [
    "ALL_VIDEOS",
    "CANDIDATES",
    "NO_TIME",
    "SHOT_KINDS",
    "SOURCES",
    "TEXT_SOURCES",
    "Curve",
    "Evidence",
    "Filters",
    "Frames",
    "Hit",
    "Interpolation",
    "LayerTokens",
    "LayerWords",
    "Moment",
    "Picture",
    "Query",
    "Resize",
    "Sampling",
    "SearchOptions",
    "Segment",
    "SegmentEmbedding",
    "Shot",
    "ShotChange",
    "ShotKind",
    "Source",
    "TextEmbedding",
    "TextSource",
    "TimedText",
    "Vector",
]
