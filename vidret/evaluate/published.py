"""Retrieval protocols, with their frames and main score, and the published scores of open models by protocol.

Numbers by different protocols are not comparable: the classic R@1 over the 1,000 pairs of MSR-VTT 1k-A, MMEB-V2's over
the same pairs with up to 64 frames, and MTEB's nDCG@10 over the 879 of its own list.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidret.data.benchmarks.registry import DATASETS
from vidret.data.records import Split
from vidret.errors import VidretError, read_fault
from vidret.types import FrameRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A protocol of evaluation on a benchmark.

    Attributes:
        metric: The main score.
        rule: How frames are sampled; None for the rule on the model's card.
        frames: Maximum number of frames per video; None likewise.
        fps: Frames per second; None likewise.
        rows: Number of queries by benchmark, where it is known.
        instruction: Instruction for every query, if the model takes any; None for the model's own.
    """

    metric: str
    rule: FrameRule | None = None
    frames: int | None = None
    fps: float | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    instruction: str | None = None


CLASSIC, MSRVTT, MSRVTT_1K_A = "classic", "1k-a", "msrvtt-1k-a"
# MMEB-V2: QwenLM/Qwen3-VL-Embedding, scripts/evaluation/mmeb_v2. MTEB: embeddings-benchmark/mteb, FramesCollator; its
# lists of queries were not available.
PROTOCOLS: Mapping[str, Protocol] = {
    CLASSIC: Protocol(metric="R@1", rows={MSRVTT_1K_A: 1000}),
    "mmeb-v2": Protocol(
        metric="R@1",
        rule="mmeb",
        frames=64,
        rows={MSRVTT_1K_A: 1000},
        instruction="Find a video that contains the following visual content.",
    ),
    "mteb": Protocol(
        metric="nDCG@10",
        rule="mteb",
        frames=64,
        fps=2.0,
        rows={MSRVTT_1K_A: 879, "msvd": 660, "didemo": 999},
        instruction="Find the video clip that matches the given caption.",
    ),
}


def resolve_protocol(name: str, data: str) -> str:
    """Return the name of a protocol, with ``1k-a``, the name of the classic one on MSR-VTT, resolved.

    Raises:
        VidretError: There is no such protocol, or it does not apply to these data.
    """
    if name == MSRVTT and data.startswith(MSRVTT_1K_A):
        return CLASSIC
    if name not in PROTOCOLS:
        raise VidretError(f"protocol must be {', '.join(PROTOCOLS)}, or {MSRVTT} for MSR-VTT, got {name}")
    return name


def choose_rows(split: Split, path: Path) -> Split:
    """Return the split with only the queries listed in a file, by their ids or those of their videos, one per line.

    Raises:
        VidretError: The file cannot be read, or lists an id that the split does not have.
    """
    try:
        listed = dict.fromkeys(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise VidretError(f"{path}: cannot be read: {read_fault(error)}") from error
    captions = tuple(caption for caption in split.captions if caption.id in listed or caption.video in listed)
    unknown = set(listed) - {caption.id for caption in captions} - {caption.video for caption in captions}
    if unknown or not listed:
        raise VidretError(f"{path}: must list ids of {split.name}, got {min(unknown, default='none')}")
    shown = {caption.video for caption in captions}
    videos = tuple(video for video in split.videos if video in shown)
    return replace(split, captions=captions, videos=videos, files=(*split.files, str(path)))


@dataclass(frozen=True, slots=True)
class Published:
    """Main scores of an open model by the classic protocol, in percent, text to video and back, from its repository."""

    model: str
    benchmark: str
    t2v: float
    v2t: float | None = None


PUBLISHED = (
    Published("VideoPrism-LvT-B", "msrvtt-1k-a", 50.1, 49.8),
    Published("VideoPrism-LvT-L", "msrvtt-1k-a", 50.1, 50.6),
    Published("PE-Core-T", "msrvtt-1k-a", 28.8),
    Published("PE-Core-S", "msrvtt-1k-a", 39.3),
    Published("PE-Core-B", "msrvtt-1k-a", 47.6),
    Published("PE-Core-L", "msrvtt-1k-a", 50.3),
    Published("PE-Core-G", "msrvtt-1k-a", 51.2),
    Published("InternVideo2-CLIP-S14", "msrvtt-1k-a", 35.6),
    Published("InternVideo2-CLIP-B14", "msrvtt-1k-a", 40.3),
    Published("InternVideo2-CLIP-L14", "msrvtt-1k-a", 42.1),
    Published("InternVideo2-CLIP-1B", "msrvtt-1k-a", 50.0, 48.4),
    Published("InternVideo2-CLIP-6B", "msrvtt-1k-a", 50.9, 50.6),
    Published("VideoPrism-LvT-B", "vatex", 56.2),
    Published("VideoPrism-LvT-L", "vatex", 57.2),
    Published("VideoPrism-LvT-B", "activitynet", 48.8),
    Published("VideoPrism-LvT-L", "activitynet", 51.3),
    Published("InternVideo2-CLIP-1B", "activitynet", 49.4),
)


def list_published(report: Mapping[str, Any]) -> list[Published]:
    """Return the published results on the data and by the protocol of a retrieval report, best first."""
    name, settings = report["data"].get("name", ""), report.get("settings", {})
    if settings.get("protocol", CLASSIC) != CLASSIC or not settings.get("complete", True):
        return []
    results = [result for result in PUBLISHED if is_tested(name, result.benchmark)]
    return sorted(results, key=lambda result: -result.t2v)


def tabulate_published(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield a line for each of your reports, by name, and then one for each published result.

    A line has the model and the protocol's main score, text to video and video to text.
    """
    for name, report in reports.items():
        metric = PROTOCOLS[report["settings"].get("protocol", CLASSIC)].metric
        rows = {row["direction"]: row for row in reversed(report["results"]["rows"]) if row["bank"] is None}
        yield [f"{report['model']['name']} ({name})", *(f"{rows[way][metric]:.1f}" for way in ("t2v", "v2t"))]
    for result in list_published(next(iter(reports.values()))):
        yield [f"{result.model}, published", f"{result.t2v:.1f}", "" if result.v2t is None else f"{result.v2t:.1f}"]


def count_rows(protocol: str, split: Split) -> int | None:
    """Return the number of queries of a protocol, None if unknown. The classic one has those of the split."""
    known = PROTOCOLS[protocol].rows
    wanted = next((rows for name, rows in known.items() if is_tested(split.name, name)), None)
    return len(split.captions) if wanted is None and protocol == CLASSIC else wanted


def is_tested(split: str, benchmark: str) -> bool:
    """Return whether a split is the one of its benchmark that results are reported on."""
    return split == f"{benchmark}-{DATASETS[benchmark].default}"
