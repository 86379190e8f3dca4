"""A split without some of its videos: what is held out of training for validation, and what cannot be read."""

import hashlib
import logging
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from vidret.data.benchmarks.registry import DATASETS
from vidret.data.benchmarks.splits import read_split
from vidret.data.frames import VideoSpan
from vidret.data.records import Split
from vidret.data.videos import find_videos
from vidret.errors import VidretError

logger = logging.getLogger(__name__)

# How several benchmarks name what they cut out of one video: XYZ_12.0_40.0, XYZ_000010_000020, 1012_Film_00.05-00.09.
CUT = re.compile(r"_\d+(\.\d+)*[_-]\d+(\.\d+)*$")
TOLD = 5  # videos that are named in a sentence; the others are counted


@dataclass(frozen=True, slots=True)
class Portions:
    """What one trains on, and what is chosen by; None where there is no such part."""

    train: Split
    val: Split | None


def read_portions(
    name: str,
    annotations: str | Path,
    *,
    train_split: str | None = None,
    val_split: str | None = None,
    val_share: float = 0.05,
    seed: int = 0,
) -> Portions:
    """Read a training split, and hold a part of its videos out for validation, unless another split is to serve.

    Args:
        name: One of ``DATASETS``.
        annotations: Where its files are; see ``read_split``.
        train_split: The split; the first that is made for training unless given, else the whole of it.
        val_split: A split of the benchmark to validate on. What is chosen by a split is not measured by it, so this
            is not the one that numbers are reported on unless one asks for that, and is told so.
        val_share: Share of the training videos that is held out otherwise.
        seed: Decides which ones.

    Raises:
        VidretError: A split cannot be read, or shares videos with the other.
    """
    train = read_split(name, annotations, train_split or default_split(name))
    if val_split is None:
        return hold_out(train, val_share, seed) if val_share else Portions(train, None)
    val = read_split(name, annotations, val_split)
    if name in DATASETS and val_split == DATASETS[name].default:
        logger.warning(
            "validation is on %s, which numbers are reported on: what is chosen by it is not measured by it", val.name
        )
    refuse_shared(train, val)
    return Portions(train, val)


def hold_out(split: Split, share: float, seed: int) -> Portions:
    """Hold about a share of a split's videos out, with their rows.

    What was cut from one video, as far as names tell, stays together: one part must not be like the other. A video's
    place in the order in which they are taken follows from its own name and the seed, so that a few videos more or
    less hardly change what is held out.

    Raises:
        VidretError: The share is not between 0 and 1, or would leave nothing on one side.
    """
    if not 0 < share < 1:
        raise VidretError(f"val_share must be between 0 and 1, or 0 to hold nothing out, got {share}")
    place = {video: _place(find_source(video), seed) for video in split.videos}
    wanted = max(1, round(share * len(split.videos)))
    held: set[str] = set()
    for _, cuts in groupby(sorted(split.videos, key=place.__getitem__), key=place.__getitem__):
        if len(held) >= wanted:
            break
        held.update(cuts)
    if len(held) == len(split.videos):
        raise VidretError(f"{split.name} must be of more videos to hold some out, got {len(held)} of one source")
    percent = f"{100 * share:g} % of {split.name}'s videos by the seed {seed}"
    return Portions(
        replace(
            _keep(split, set(split.videos) - held),
            name=f"{split.name}-rest",
            notes=(*split.notes, f"without {percent}"),
        ),
        replace(_keep(split, held), name=f"{split.name}-held-out", notes=(*split.notes, f"held out: {percent}")),
    )


def find_source(video: str) -> str:
    """Name the video that one was cut from, where its name tells.

    >>> find_source("NUsG9BgSes0_210.0_360.0"), find_source("-4wsuPCjDBc_5_15"), find_source("video7020")
    ('NUsG9BgSes0', '-4wsuPCjDBc', 'video7020')
    """
    return CUT.sub("", video)


def refuse_shared(train: Split, other: Split) -> None:
    """Refuse to measure on videos that are trained on."""
    if shared := [video for video in other.videos if video in set(train.videos)]:
        raise VidretError(f"{other.name} must share no video with {train.name}, got {name_some(shared)}")


def leave_out(
    split: Split, reasons: Mapping[str, str], salvaged: Mapping[str, str] | None = None, *, whole: bool = False
) -> Split:
    """Give a split without videos that cannot be read; notes say how many, name some and give their reasons.

    Args:
        split: All of it.
        reasons: Why a video cannot be read.
        salvaged: What of a video is lost; it stays, and a note tells of it.
        whole: Leave nothing out.

    Raises:
        VidretError: Nothing is left, or something would be left out of what must stay whole.
    """
    if damaged := [f"{video}: {lost}" for video, lost in (salvaged or {}).items()]:
        note = f"videos of which a part cannot be read: {name_some(damaged)}"
        logger.warning("%s: %s", split.name, note)
        split = replace(split, notes=(*split.notes, note))
    gone = [video for video in split.videos if video in reasons]
    if not gone:
        return split
    told = name_some([f"{video}: {reasons[video]}" for video in gone])
    if whole:
        raise VidretError(
            f"{split.name} must have all its videos, since a smaller gallery makes better numbers "
            f"(allow_missing leaves them out): cannot read {told}"
        )
    note = f"videos left out of {len(split.videos)}, since they cannot be read: {told}"
    left = _keep(split, set(split.videos) - set(gone))
    if not left.captions and not left.queries:
        raise VidretError(f"{split.name} must have a video that can be read, got none: {told}")
    logger.warning("%s: %s", split.name, note)
    return replace(left, notes=(*left.notes, note))


def find_video_spans(split: Split, folder: str | Path) -> tuple[dict[str, VideoSpan], dict[str, str]]:
    """Find the file of each video, and what part of it the captions describe.

    Returns:
        The part of each video that is there, and the reason for each that is not.

    Raises:
        VidretError: Names are ambiguous, or captions of one video describe different parts of it.
    """
    found, missing = find_videos(split.videos, folder)
    spans: dict[str, tuple[float, float]] = {}
    for caption in split.captions:
        span = caption.start or 0.0, math.inf if caption.end is None else caption.end
        if spans.setdefault(caption.video, span) != span:
            raise VidretError(f"{caption.video} must be described in one part, got {spans[caption.video]} and {span} s")
    parts = {video: VideoSpan(str(path), *spans.get(video, ())) for video, path in found.items()}
    return parts, dict.fromkeys(missing, f"no file in {folder}")


def name_some(names: Collection[str]) -> str:
    """Count names, and give the first of them."""
    shown = list(names)[:TOLD]
    return f"{len(names)} ({', '.join(shown)}{', ...' if len(names) > len(shown) else ''})"


def default_split(name: str) -> str | None:
    """Name the first split of a benchmark that is made for training; None where there is none."""
    made_for_it = DATASETS[name].train_splits if name in DATASETS else ()
    return made_for_it[0] if made_for_it else None


def _keep(split: Split, videos: Collection[str]) -> Split:
    return replace(
        split,
        videos=tuple(video for video in split.videos if video in videos),
        captions=tuple(row for row in split.captions if row.video in videos),
        queries=tuple(row for row in split.queries if row.video in videos),
    )


def _place(source: str, seed: int) -> str:
    return hashlib.blake2b(f"{seed} {source}".encode(), digest_size=16).hexdigest()
