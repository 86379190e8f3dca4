"""The options of an indexing run, on threads or on Ray."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vidret.devices import CPU
from vidret.index.progress import Progress
from vidret.timed_text.options import WordsOptions
from vidret.types import LayerTokens, Segment, SegmentEmbedding
from vidret.video.decode import Decoder
from vidret.video.streaming import SamplingMode

Pack = Callable[[SegmentEmbedding], bytes]


class MomentRecorder(Protocol):
    """Stores what a grounding head needs of the videos of a run.

    Attributes:
        num_layers: Number of the encoder's last layers that the head reads.
    """

    num_layers: int

    def record(self, content: str, layers: LayerTokens, segment: Segment, *, first: float) -> None:
        """Store what the head needs of a segment, before it is committed.

        Args:
            content: Fingerprint of the content of its video.
            layers: Outputs of the encoder's last layers for its frames.
            segment: The segment.
            first: Start of the video in seconds.
        """
        ...

    def finish(self, path: str, content: str, segments: Sequence[Segment], *, first: float) -> None:
        """Join what was stored of all segments of a video, before it is marked as complete."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """Options of an indexing run.

    Attributes:
        pack: Returns the bytes that are stored beside the vectors of an embedding; None stores none. On Ray it is
            pickled.
        tokens: Whether ``pack`` needs token embeddings.
        workers: Number of files processed at once, and on Ray without GPUs, of models that encode; by default the
            number of usable cores.
        decoder: ``auto``, ``decord``, ``pyav`` or ``torchcodec``.
        device: The device of the encoder. On any but the CPU, several segments are encoded together. With ``cuda:N``,
            that GPU also decodes (see ``DecodePool``), and a Ray started on this machine has only that GPU; a cluster
            assigns its own GPUs.
        timeout: Seconds that a decoder may stay silent before its file fails.
        retry_failed: Read failed files again even if they are unchanged, and words that could not be read.
        prune_below: Remove missing files below these folders from the index, with their vectors; None removes nothing.
        shot_sampling: Which frames are decoded to cut segments at shots; None cuts them on a grid.
        moments: Stores what a grounding head needs, from the pass that encodes; None for nothing. Not on Ray.
        words: Which words are read besides the pictures; None for none.
        check: Called before the first file is encoded, if any has to be; its exception ends the run.
        on_progress: Called from the thread of the caller a few times per second.
    """

    pack: Pack | None = None
    tokens: bool = True
    workers: int | None = None
    decoder: Decoder = "auto"
    device: str = CPU
    timeout: float = 120.0
    retry_failed: bool = False
    prune_below: Sequence[str] | None = None
    shot_sampling: SamplingMode | None = None
    moments: MomentRecorder | None = None
    words: WordsOptions | None = None
    check: Callable[[], None] | None = None
    on_progress: Callable[[Progress], None] | None = None
