"""Splits of a benchmark: loading by name, holding out training videos, and dropping unreadable videos."""

import hashlib
import logging
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from vidret.data.benchmarks.registry import DATASETS
from vidret.data.records import Split, VideoSpan, find_videos, video_stem
from vidret.errors import VidretError


def read_split(name: str, folder: str | Path, split: str | None = None) -> Split:
    """Read a split of a benchmark.

    Args:
        name: One of ``DATASETS``, optionally followed by its split: ``qvhighlights-val``, ``msrvtt-1k-a-train-9k``.
        folder: Folder with the annotation files, either directly or in a subfolder with the benchmark's name. Or the
            path of the first file, under any name; the other files must then be in the same folder.
        split: Name of the split; defaults to the one that results are reported on.

    Raises:
        VidretError: The benchmark or the split does not exist, a file is missing, or its content is invalid. The
            message then gives the file and the line or key.
    """
    name, split = resolve_split(name, split)
    benchmark = DATASETS[name]
    source = benchmark.splits[split]
    folder = Path(folder)
    full_name = name if split == "all" else f"{name}-{split}"
    given = [folder] if folder.is_file() else []
    folders = [folder.parent] if given else [folder, *(folder / subfolder for subfolder in benchmark.folders)]
    needed = [*given, *(_find_file(names, folders) for names in source.needed[len(given) :])]
    if missing := [names for names, path in zip(source.needed, needed, strict=True) if path is None]:
        needs = f"{full_name} needs {' and '.join(missing)}"
        if not folder.exists():
            raise VidretError(f"annotations must be a file or a folder that exists, got {folder} ({needs})")
        raise VidretError(f"{needs}: not found in {', '.join(str(path) for path in folders if path.is_dir())}")
    loaded = source.read(full_name, *needed, *(_find_file(names, folders) for names in source.extra))
    return replace(loaded, notes=(*source.notes, *loaded.notes), scoring=benchmark.scoring)


def resolve_split(name: str, split: str | None = None) -> tuple[str, str]:
    """Return the names of the benchmark and the split, given one name for both.

    Raises:
        VidretError: There is no such benchmark, or it has no such split.
    """
    if name not in DATASETS and split is None:
        for dataset in DATASETS:
            if name.startswith(f"{dataset}-") and name.removeprefix(f"{dataset}-") in DATASETS[dataset].splits:
                return dataset, name.removeprefix(f"{dataset}-")
    if name not in DATASETS:
        raise VidretError(f"name must be one of {', '.join(DATASETS)}, optionally followed by -SPLIT, got {name}")
    benchmark = DATASETS[name]
    if split is not None and split not in benchmark.splits:
        raise VidretError(f"split must be one of {', '.join(benchmark.splits)} for {name}, got {split}")
    return name, split or benchmark.default


def _find_file(names: str, folders: list[Path]) -> Path | None:
    """Return the first path that exists: names are tried in order, and for each name the folders in order."""
    paths = (folder / name for name in names.split(" or ") for folder in folders)
    return next((path for path in paths if path.is_file()), None)


logger = logging.getLogger(__name__)

# Names of clips cut from one video: XYZ_12.0_40.0, XYZ_000010_000020, 1012_Film_00.05-00.09.
CLIP_TIMES = re.compile(r"_\d+(\.\d+)*[_-]\d+(\.\d+)*$")
MAX_LISTED = 5  # names in a message


@dataclass(frozen=True, slots=True)
class SplitChoice:
    """Which splits of a benchmark to train, validate and test on.

    Attributes:
        name: One of ``DATASETS``.
        annotations: Path of its files; see ``read_split``.
        train_split: Split to train on; defaults to the benchmark's first training split, else to all of it.
        val_split: Split to validate on. Model selection biases results on it, so a warning is logged if it is the split
            that results are reported on.
        test_split: Split to test on.
        val_share: Share of the training videos to hold out if there is no ``val_split``; 0 for no validation.
        seed: Seed of the choice of held-out videos.
        domain: Only the queries of this domain; None for all.

    Raises:
        VidretError: The test split is the training split, or the seed is negative.
    """

    name: str
    annotations: str | Path
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    val_share: float = 0.05
    seed: int = 0
    domain: str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise VidretError(f"seed must be at least 0, got {self.seed}")
        if self.test_split is not None and self.test_split == self._train_name:
            raise VidretError(f"test_split must differ from the training split, got {self.test_split}")

    @property
    def _train_name(self) -> str | None:
        train_splits = DATASETS[self.name].train_splits if self.name in DATASETS else ()
        return self.train_split or next(iter(train_splits), None)

    def read(self, stage: str | None = None) -> dict[str, Split]:
        """Return the splits of a stage, ``fit``, ``validate`` or ``test``, or of all, by role: train, val and test.

        Raises:
            VidretError: A split cannot be read, has no such domain, is not named, or shares videos with the training
                split.
        """
        splits: dict[str, Split] = {}
        if stage != "test":
            train = self._read(self._train_name)
            splits = {"train": train}
            if self.val_split is not None:
                splits["val"] = self._read_val(train, self.val_split)
            elif self.val_share:
                splits["train"], splits["val"] = hold_out(train, self.val_share, self.seed)
        if stage == "validate":
            del splits["train"]
        if stage == "test" and self.test_split is None:
            raise VidretError("test_split must be set for testing, got None")
        if stage in (None, "test") and self.test_split is not None:
            splits["test"] = self._read(self.test_split)
        return splits

    def _read(self, name: str | None) -> Split:
        split = read_split(self.name, self.annotations, name)
        return split if self.domain is None else keep_domain(split, self.domain)

    def _read_val(self, train: Split, name: str) -> Split:
        val = self._read(name)
        if self.name in DATASETS and name == DATASETS[self.name].default:
            logger.warning("validation uses %s, so model selection biases the results reported on it", val.name)
        trained = set(train.videos)
        if shared := [video_id for video_id in val.videos if video_id in trained]:
            raise VidretError(f"{val.name} must share no video with {train.name}, got {list_some(shared)}")
        return val


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Divide a split: return it without about ``share`` of its videos and their rows, and the held-out split of these.

    Clips that were cut from one video, according to their names, stay together, since they resemble each other. Videos
    are taken in an order that depends on their own names and the seed, so adding or removing a few videos hardly
    changes which ones are held out.

    Raises:
        VidretError: The share is not between 0 and 1, or no video would be left to train on.
    """
    if not 0 < share < 1:
        raise VidretError(f"val_share must be between 0 and 1, or 0 for no validation, got {share}")
    sort_keys = {
        video_id: hashlib.blake2b(f"{seed} {source_of(video_id)}".encode(), digest_size=16).hexdigest()
        for video_id in split.videos
    }
    num_wanted = max(1, round(share * len(split.videos)))
    held_out: set[str] = set()
    for _, clips in groupby(sorted(split.videos, key=sort_keys.__getitem__), key=sort_keys.__getitem__):
        if len(held_out) >= num_wanted:
            break
        held_out.update(clips)
    if len(held_out) == len(split.videos):
        drawn = f"a share of {share:g} of {len(held_out)} videos held out"
        raise VidretError(f"{split.name} must have videos of another source to train on, got {drawn}")
    drawn = f"{100 * share:g} % of {split.name}'s videos, drawn with seed {seed}"
    train = _subset(split, set(split.videos) - held_out)
    val = _subset(split, held_out)
    return (
        replace(train, name=f"{split.name}-rest", notes=(*split.notes, f"without {drawn}")),
        replace(val, name=f"{split.name}-held-out", notes=(*split.notes, f"held out: {drawn}")),
    )


def keep_domain(split: Split, domain: str) -> Split:
    """Return a split with only the queries of one domain, and their videos.

    Raises:
        VidretError: There is none.
    """
    domains = {row.video: row.domain for row in split.queries}
    if domain not in domains.values():
        domain_names = ", ".join(sorted(set(domains.values())))
        raise VidretError(f"domain must be one of {domain_names} for {split.name}, got {domain}")
    kept = _subset(split, {video_id for video_id, its_domain in domains.items() if its_domain == domain})
    return replace(kept, name=f"{split.name}-{domain}")


def source_of(video_id: str) -> str:
    """Return the id of the video that a clip was cut from, if its name has times, else the id without a suffix.

    >>> source_of("NUsG9BgSes0_210.0_360.0"), source_of("-4wsuPCjDBc_5_15.mp4"), source_of("video7020")
    ('NUsG9BgSes0', '-4wsuPCjDBc', 'video7020')
    """
    return CLIP_TIMES.sub("", video_stem(video_id))


def drop_unreadable(
    split: Split, reasons: Mapping[str, str], salvaged: Mapping[str, str] | None = None, *, whole: bool = False
) -> Split:
    """Return a split without unreadable videos. Notes give their number, some names and the reasons.

    Args:
        split: The complete split.
        reasons: The reason for each video that cannot be read.
        salvaged: A description of the loss for each video that can be read in part. These stay and are noted.
        whole: Whether to refuse the split instead of dropping videos.

    Raises:
        VidretError: No video is left, or ``whole`` is set and a video cannot be read.
    """
    if damaged := [f"{video_id}: {lost}" for video_id, lost in (salvaged or {}).items()]:
        note = f"videos that can be read only in part: {list_some(damaged)}"
        logger.warning("%s: %s", split.name, note)
        split = replace(split, notes=(*split.notes, note))
    unreadable = [video_id for video_id in split.videos if video_id in reasons]
    if not unreadable:
        return split
    listed = list_some([f"{video_id}: {reasons[video_id]}" for video_id in unreadable])
    if whole:
        raise VidretError(
            f"{split.name} must have all its videos, since a smaller gallery inflates the results "
            f"(allow_missing omits them): cannot read {listed}"
        )
    kept = _subset(split, set(split.videos) - set(unreadable))
    if not kept.captions and not kept.queries:
        raise VidretError(f"{split.name} must have at least one readable video, got none: {listed}")
    note = f"videos omitted of {len(split.videos)} because they cannot be read: {listed}"
    logger.warning("%s: %s", split.name, note)
    return replace(kept, notes=(*kept.notes, note))


def find_video_spans(split: Split, folder: str | Path) -> tuple[dict[str, VideoSpan], dict[str, str]]:
    """Return the file of each video, with the part of it that the captions describe.

    Returns:
        The span of each video that exists, and a reason for each that does not, by video id.

    Raises:
        VidretError: Names are ambiguous, or captions of one video describe different parts of it.
    """
    paths, missing = find_videos(split.videos, folder)
    times: dict[str, tuple[float, float]] = {}
    for caption in split.captions:
        span = caption.start or 0.0, math.inf if caption.end is None else caption.end
        if times.setdefault(caption.video, span) != span:
            raise VidretError(
                f"captions of {caption.video} must describe one part of it, got {times[caption.video]} and {span} s"
            )
    spans = {video_id: VideoSpan(str(path), *times.get(video_id, ())) for video_id, path in paths.items()}
    return spans, dict.fromkeys(missing, f"no file in {folder}")


def list_some(names: Collection[str]) -> str:
    """Return the number of names, followed by the first of them."""
    shown = list(names)[:MAX_LISTED]
    return f"{len(names)} ({', '.join(shown)}{', ...' if len(names) > len(shown) else ''})"


def _subset(split: Split, video_ids: Collection[str]) -> Split:
    return replace(
        split,
        videos=tuple(video_id for video_id in split.videos if video_id in video_ids),
        captions=tuple(row for row in split.captions if row.video in video_ids),
        queries=tuple(row for row in split.queries if row.video in video_ids),
    )
