"""Text-video retrieval and grounding: point it at videos, type what you are looking for, get videos and moments.

    from vidret import Engine

    engine = Engine.open("my-index")
    engine.index(["~/Videos"])
    for hit in engine.search("a dog on a beach"):
        print(hit.path, hit.score)

The rooms, in the order data meets them: ``vidret.video`` reads files, ``vidret.encode`` makes vectors, ``vidret.store``
keeps them, ``vidret.align`` compares, ``vidret.ground`` finds moments; ``vidret.engine`` is the door to all of them.
"""

from typing import TYPE_CHECKING

from vidret.errors import DecodeError, EncoderError, MissingExtraError, StoreError, VidretError

if TYPE_CHECKING:
    from vidret.client import RemoteEngine, RemoteError
    from vidret.encode.encoder import Encoder
    from vidret.encode.load import load_encoder
    from vidret.engine import Engine
    from vidret.index.progress import IndexReport
    from vidret.types import (
        ComposedQuery,
        Concept,
        ConceptExample,
        EventSpan,
        Frames,
        Hit,
        Moment,
        Segment,
        SegmentEmbedding,
        Sequence,
        TextEmbedding,
    )

__all__ = [
    "ComposedQuery",
    "Concept",
    "ConceptExample",
    "DecodeError",
    "Encoder",
    "EncoderError",
    "Engine",
    "EventSpan",
    "Frames",
    "Hit",
    "IndexReport",
    "MissingExtraError",
    "Moment",
    "RemoteEngine",
    "RemoteError",
    "Segment",
    "SegmentEmbedding",
    "Sequence",
    "StoreError",
    "TextEmbedding",
    "VidretError",
    "load_encoder",
]

_LAZY = {
    "Encoder": "encode.encoder",
    "Engine": "engine",
    "IndexReport": "index.progress",
    "RemoteEngine": "client",
    "RemoteError": "client",
    "load_encoder": "encode.load",
    **dict.fromkeys(
        (
            "ComposedQuery",
            "Concept",
            "ConceptExample",
            "EventSpan",
            "Frames",
            "Hit",
            "Moment",
            "Segment",
            "SegmentEmbedding",
            "Sequence",
            "TextEmbedding",
        ),
        "types",
    ),
}


def __getattr__(name: str) -> object:
    """Import what needs torch or NumPy when it is asked for: ``--help`` and decoding processes start fast."""
    if name not in _LAZY:
        raise AttributeError(f"module 'vidret' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"vidret.{_LAZY[name]}"), name)
