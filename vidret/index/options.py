"""The options of an indexing run, on threads or on Ray, and the rule for cutting videos that an index remembers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vidret.channels.texts.options import WordsOptions
from vidret.devices import CPU
from vidret.errors import VidretError
from vidret.index.progress import Progress
from vidret.store.records import FIXED_GRID, FOLLOW_SHOTS, SAMPLING, SEGMENTS
from vidret.store.store import Store
from vidret.types import LayerTokens, Segment, SegmentEmbedding
from vidret.video.decoders.base import SAMPLING_MODES, SamplingMode, choose_mode
from vidret.video.decoders.registry import DECODERS, EXACT_DECODERS, Decoder

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


def record_rule(
    store: Store, *, shots: bool | None, mode: SamplingMode | None, whole: bool, decoder: Decoder
) -> SamplingMode | None:
    """Return which frames a run decodes to follow shots, None for a fixed grid, and record it.

    Args:
        store: The index, open for writing.
        shots: Whether segments follow shots; None goes on as the index does. A new index follows shots, unless the
            encoder sees ``whole`` videos. An index that was made before this could be chosen has a grid.
        mode: Which frames are decoded to follow shots; None goes on as the index does, and means ``exact`` at first.
        whole: Whether the encoder sees whole videos, each as one segment.
        decoder: The decoder of the run; Decord and torchcodec decode all frames.

    Raises:
        VidretError: The mode or the decoder is unknown, they do not go together, shots are on for whole videos, or the
            index was made with the other rule for segments.
    """
    if mode is not None and mode not in SAMPLING_MODES:
        raise VidretError(f"sampling must be {', '.join(SAMPLING_MODES)}, got {mode}")
    if decoder not in DECODERS:
        raise VidretError(f"decoder must be {', '.join(DECODERS)}, got {decoder}")
    if shots and whole:
        raise VidretError("shots must be off for an encoder of whole videos, got on")
    recorded = store.metadata.get(SEGMENTS) or (FIXED_GRID if store.videos.fingerprints() else None)
    rule = recorded or (FIXED_GRID if whole or shots is False else FOLLOW_SHOTS)
    follow_shots = rule == FOLLOW_SHOTS
    if shots is not None and not whole and shots != follow_shots:
        made, got = ("on", "off") if follow_shots else ("off", "on")
        raise VidretError(f"{store.path}: shots must be {made}, as the index was made, got {got}; use a new index")
    recorded_mode = store.metadata.get(SAMPLING)
    chosen = mode or choose_mode(recorded_mode)
    if chosen != "exact" and not follow_shots:
        raise VidretError(f"{store.path}: sampling must be exact where segments do not follow shots, got {chosen}")
    if chosen != "exact" and decoder in EXACT_DECODERS:
        rule = f"decoder must be auto or pyav with sampling {chosen}"
        raise VidretError(f"{rule}, got {decoder}, which decodes all frames")
    if store.metadata.get(SEGMENTS) is None:
        store.metadata.set(SEGMENTS, rule)
    if chosen != recorded_mode:
        store.metadata.set(SAMPLING, chosen)
    return chosen if follow_shots else None
