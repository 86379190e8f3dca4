"""How an index cuts videos into segments and which frames it decodes: chosen when it is made, and remembered."""

from vidret.errors import VidretError
from vidret.store.records import FIXED_GRID, FOLLOW_SHOTS, SAMPLING, SEGMENTS
from vidret.store.store import Store
from vidret.video.decode import DECODERS, READ_ALL, Decoder
from vidret.video.streaming import SAMPLING_MODES, SamplingMode, choose_mode


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
    recorded = store.get_meta(SEGMENTS) or (FIXED_GRID if store.fingerprints() else None)
    rule = recorded or (FIXED_GRID if whole or shots is False else FOLLOW_SHOTS)
    follow_shots = rule == FOLLOW_SHOTS
    if shots is not None and not whole and shots != follow_shots:
        made, got = ("on", "off") if follow_shots else ("off", "on")
        raise VidretError(f"{store.path}: shots must be {made}, as the index was made, got {got}; use a new index")
    recorded_mode = store.get_meta(SAMPLING)
    chosen = mode or choose_mode(recorded_mode)
    if chosen != "exact" and not follow_shots:
        raise VidretError(f"{store.path}: sampling must be exact where segments do not follow shots, got {chosen}")
    if chosen != "exact" and decoder in READ_ALL:
        rule = f"decoder must be auto or pyav with sampling {chosen}"
        raise VidretError(f"{rule}, got {decoder}, which decodes all frames")
    if store.get_meta(SEGMENTS) is None:
        store.set_meta(SEGMENTS, rule)
    if chosen != recorded_mode:
        store.set_meta(SAMPLING, chosen)
    return chosen if follow_shots else None
