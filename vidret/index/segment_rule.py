"""How an index cuts videos into segments and which frames it decodes: chosen when it is made, and remembered."""

from dataclasses import dataclass

from vidret.errors import VidretError
from vidret.store.records import FIXED_GRID, FOLLOW_SHOTS, SEGMENTS
from vidret.store.store import Store
from vidret.video.streaming import SAMPLING_MODES, SamplingMode

MODE = "sampling"  # the metadata key


@dataclass(frozen=True, slots=True)
class SegmentRule:
    """Whether segments follow shots, and which frames are decoded then."""

    follow_shots: bool
    mode: SamplingMode


def record_rule(store: Store, *, shots: bool | None, mode: SamplingMode | None, whole: bool) -> SegmentRule:
    """Return the rule for a run, and record it.

    Args:
        store: The index, open for writing.
        shots: Whether segments follow shots; None goes on as the index does. A new index follows shots, unless the
            encoder sees ``whole`` videos. An index that was made before this could be chosen has a grid.
        mode: Which frames are decoded to follow shots; None goes on as the index does, and means ``exact`` for a new one.
        whole: Whether the encoder sees whole videos, each as one segment.

    Raises:
        VidretError: The mode is unknown, or the index was made with the other rule for segments.
    """
    if mode is not None and mode not in SAMPLING_MODES:
        raise VidretError(f"sampling must be {', '.join(SAMPLING_MODES)}, got {mode}")
    known = store.get_meta(SEGMENTS)
    if known is None and store.fingerprints():
        known = FIXED_GRID
    if known is None:
        known = FIXED_GRID if whole or shots is False else FOLLOW_SHOTS
    if shots is not None and not whole and shots != (known == FOLLOW_SHOTS):
        made, got = ("on", "off") if known == FOLLOW_SHOTS else ("off", "on")
        raise VidretError(f"{store.path}: shots must be {made}, as the index was made, got {got}; use a new index")
    recorded = store.get_meta(MODE)
    chosen = mode or next((each for each in SAMPLING_MODES if each == recorded), "exact")
    if chosen != "exact" and known == FIXED_GRID:
        raise VidretError(f"{store.path}: sampling must be exact where segments do not follow shots, got {chosen}")
    for key, value, before in ((SEGMENTS, str(known), store.get_meta(SEGMENTS)), (MODE, chosen, recorded)):
        if value != before:
            store.set_meta(key, value)
    return SegmentRule(known == FOLLOW_SHOTS, chosen)
