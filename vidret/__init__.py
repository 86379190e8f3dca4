"""Text-video retrieval and grounding: index videos, search them by text or image, and locate moments.

Index and search; an index records its model, and later runs encode only new and changed videos:

    from vidret import Engine, Filters, to_pandas

    engine = Engine.open("my-index")                    # encoder="ViT-B-32/laion2b_s34b_b79k" for a new one
    engine.index(["/home/me/Videos"], on_progress=print)
    for hit in engine.search("a dog on a beach -people", filters=Filters(min_seconds=10)):
        print(hit.score, hit.path, hit.time)
    for moment in engine.locate("a man enters, then a car leaves", k=3):
        print(moment.path, moment.start, moment.end)

A query is a text, an image (uint8, height x width x 3), ``ComposedQuery`` (images and words), ``Sequence`` (events in
order) or a vector of the encoder. A video is named by its path, a unique ending of it, or its id. Further methods:

    to_pandas(engine.search("a dog"))                   # or to_dicts, for JSON
    engine.embeddings("frame").vectors                  # all stored vectors, with paths and times
    engine.teach("mascot", yes=["mascot.jpg"])          # then "@mascot on a beach" is a query
    engine.transcript("trip/a.mp4"), engine.shots("trip/a.mp4"), engine.curve("a dog", "trip/a.mp4")
    engine.find_footage("clip.mp4"), engine.duplicates()
    engine.index_frames("camera/3", frames, times_s)    # arrays as a video without a file

``Encoder`` is the protocol for your own encoder: pass such an object to ``Engine.open``. ``rerank`` of
``Engine.open`` takes the file of a trained aligner. ``RemoteEngine`` has the same methods over HTTP, for an index that
``vidret serve`` offers, and ``AsyncRemoteEngine`` has them as coroutines. Expected failures are ``VidretError``, each
with one sentence.

The packages, in the order of the data flow: ``vidret.video`` reads files, ``vidret.encode`` makes vectors,
``vidret.store`` stores them, ``vidret.align`` compares, ``vidret.ground`` finds moments; ``vidret.engine`` joins them.
"""

import os
import sys
from typing import TYPE_CHECKING

from vidret.errors import DecodeError, EncoderError, MissingExtraError, StoreError, VidretError

if TYPE_CHECKING:
    __version__: str
    from vidret.client import RemoteEngine, RemoteError
    from vidret.client.async_remote import AsyncRemoteEngine
    from vidret.encode.encoder import Encoder
    from vidret.encode.families.registry import load_encoder
    from vidret.engine import Engine
    from vidret.index.options import IndexReport, Progress
    from vidret.present.show import to_dicts, to_pandas
    from vidret.types import (
        ComposedQuery,
        Concept,
        ConceptExample,
        Curve,
        Embeddings,
        EventSpan,
        Filters,
        Frames,
        Hit,
        LocateOptions,
        Moment,
        Query,
        SearchOptions,
        Segment,
        SegmentEmbedding,
        Sequence,
        TextEmbedding,
    )

# Libraries read these at import. They turn off telemetry and other requests that the user did not ask for.
os.environ.update(
    ORT_DISABLE_TELEMETRY="1",  # its own switch, disable_telemetry_events(), comes too late
    HF_HUB_DISABLE_TELEMETRY="1",
    DISABLE_SAFETENSORS_CONVERSION="1",  # else transformers asks the hub to convert the files of some models
    RAY_USAGE_STATS_ENABLED="0",
)
# OpenVINO reports each import, and has no such switch; without this package it cannot.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = [
    "AsyncRemoteEngine",
    "ComposedQuery",
    "Concept",
    "ConceptExample",
    "Curve",
    "DecodeError",
    "Embeddings",
    "Encoder",
    "EncoderError",
    "Engine",
    "EventSpan",
    "Filters",
    "Frames",
    "Hit",
    "IndexReport",
    "LocateOptions",
    "MissingExtraError",
    "Moment",
    "Progress",
    "Query",
    "RemoteEngine",
    "RemoteError",
    "SearchOptions",
    "Segment",
    "SegmentEmbedding",
    "Sequence",
    "StoreError",
    "TextEmbedding",
    "VidretError",
    "load_encoder",
    "to_dicts",
    "to_pandas",
]

_LAZY = dict.fromkeys(__all__, "types") | {
    "AsyncRemoteEngine": "client.async_remote",
    "Encoder": "encode.encoder",
    "Engine": "engine",
    "IndexReport": "index.options",
    "Progress": "index.options",
    "RemoteEngine": "client",
    "RemoteError": "client",
    "load_encoder": "encode.families.registry",
    "to_dicts": "present.show",
    "to_pandas": "present.show",
}


def __getattr__(name: str) -> object:
    """Import a name that needs torch or NumPy at first use, so that ``--help`` and decoding processes start fast."""
    if name == "__version__":
        from importlib.metadata import version

        return version("vidret")
    if name not in _LAZY:
        raise AttributeError(f"module 'vidret' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"vidret.{_LAZY[name]}"), name)
