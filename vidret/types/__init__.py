"""Frozen dataclasses shared by all packages, and the common methods of ``Engine`` and its client; times in seconds.

Nothing here imports torch, so that decoding processes start quickly and stay small, and only ``arrays`` imports NumPy.
All arrays are NumPy's; inside an ``nn.Module`` values are plain tensors, which ``Encoder`` and ``Store`` convert.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from vidret.types.collections import LISTED as LISTED
from vidret.types.collections import OPTIONS as OPTIONS
from vidret.types.collections import ListedMoment as ListedMoment
from vidret.types.collections import SavedCollection as SavedCollection
from vidret.types.collections import as_moments as as_moments
from vidret.types.media import FRAME_RULES as FRAME_RULES
from vidret.types.media import NO_TIME as NO_TIME
from vidret.types.media import SHOT_KINDS as SHOT_KINDS
from vidret.types.media import SOURCE_LABELS as SOURCE_LABELS
from vidret.types.media import SOURCES as SOURCES
from vidret.types.media import TEXT_SOURCES as TEXT_SOURCES
from vidret.types.media import EmbeddingLevel as EmbeddingLevel
from vidret.types.media import FrameRule as FrameRule
from vidret.types.media import Interpolation as Interpolation
from vidret.types.media import Resize as Resize
from vidret.types.media import Sampling as Sampling
from vidret.types.media import Segment as Segment
from vidret.types.media import Shot as Shot
from vidret.types.media import ShotChange as ShotChange
from vidret.types.media import ShotKind as ShotKind
from vidret.types.media import Source as Source
from vidret.types.media import TextSource as TextSource
from vidret.types.media import TimedText as TimedText
from vidret.types.options import NamedOption as NamedOption
from vidret.types.options import Option as Option
from vidret.types.options import build_options as build_options
from vidret.types.options import check_options as check_options
from vidret.types.options import flatten_options as flatten_options
from vidret.types.options import list_options as list_options
from vidret.types.queries import ALL_VIDEOS as ALL_VIDEOS
from vidret.types.queries import CANDIDATES as CANDIDATES
from vidret.types.queries import MAX_EVENTS as MAX_EVENTS
from vidret.types.queries import MAX_LOCATED as MAX_LOCATED
from vidret.types.queries import MAX_OFFSET as MAX_OFFSET
from vidret.types.queries import MAX_QUERY_LENGTH as MAX_QUERY_LENGTH
from vidret.types.queries import RERANKERS as RERANKERS
from vidret.types.queries import Concept as Concept
from vidret.types.queries import ConceptExample as ConceptExample
from vidret.types.queries import Filters as Filters
from vidret.types.queries import LocateOptions as LocateOptions
from vidret.types.queries import SearchOptions as SearchOptions
from vidret.types.queries import Sequence as Sequence
from vidret.types.queries import TimePoint as TimePoint
from vidret.types.queries import VideoName as VideoName
from vidret.types.results import LIKELY as LIKELY
from vidret.types.results import UNLIKELY as UNLIKELY
from vidret.types.results import CopiedFile as CopiedFile
from vidret.types.results import CopyGroup as CopyGroup
from vidret.types.results import CurveText as CurveText
from vidret.types.results import EventSpan as EventSpan
from vidret.types.results import Evidence as Evidence
from vidret.types.results import Hit as Hit
from vidret.types.results import KindOfVideo as KindOfVideo
from vidret.types.results import Likelihood as Likelihood
from vidret.types.results import MappedMoment as MappedMoment
from vidret.types.results import Moment as Moment
from vidret.types.results import NearCopy as NearCopy
from vidret.types.results import Person as Person
from vidret.types.results import PersonTrack as PersonTrack
from vidret.types.results import SharedFootage as SharedFootage
from vidret.types.results import TaggedVideo as TaggedVideo
from vidret.types.results import UnusualVideo as UnusualVideo
from vidret.types.results import rate_probability as rate_probability
from vidret.types.rows import RowField as RowField
from vidret.types.rows import Shown as Shown
from vidret.types.rows import from_row as from_row
from vidret.types.rows import list_row_fields as list_row_fields
from vidret.types.rows import show_property as show_property
from vidret.types.rows import to_row as to_row
from vidret.types.searchable import Searchable as Searchable
from vidret.types.searchable import VideoLibrary as VideoLibrary

if TYPE_CHECKING:
    from vidret.types.arrays import QUERY_RULE as QUERY_RULE
    from vidret.types.arrays import ComposedQuery as ComposedQuery
    from vidret.types.arrays import Curve as Curve
    from vidret.types.arrays import Embeddings as Embeddings
    from vidret.types.arrays import ExampleLike as ExampleLike
    from vidret.types.arrays import Frames as Frames
    from vidret.types.arrays import LayerTokens as LayerTokens
    from vidret.types.arrays import LayerWords as LayerWords
    from vidret.types.arrays import Picture as Picture
    from vidret.types.arrays import Query as Query
    from vidret.types.arrays import SegmentEmbedding as SegmentEmbedding
    from vidret.types.arrays import SoundWindows as SoundWindows
    from vidret.types.arrays import TextEmbedding as TextEmbedding
    from vidret.types.arrays import Vector as Vector
    from vidret.types.arrays import as_example as as_example
    from vidret.types.arrays import list_query_texts as list_query_texts
else:

    def __getattr__(name: str) -> object:
        """Import a type with arrays on first use, so that a client, which needs no NumPy for texts, starts fast."""
        return getattr(import_module("vidret.types.arrays"), name)
