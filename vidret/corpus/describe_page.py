"""A description of a folder as one HTML page with frames: the overview with its map, and distinctive phrases."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from vidret.corpus.describing import ExampleFrame, FolderDescription
from vidret.corpus.overview import ContentCluster, FolderOverview, MapPoint
from vidret.corpus.phrases import WordShare, WordUse
from vidret.present.html import FrameImages, escape_text, render_facts, render_table, write_document
from vidret.text import display_path, file_name, format_count, format_time

MAP_IMAGE = (160, 120)
NUM_COLOURS = 12
OnProgress = Callable[[int, int], None]
# A dot shows its frame when it is pointed at or, on a phone, touched.
STYLE = """
.map { position: relative; aspect-ratio: 4 / 3; max-width: 860px; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); padding: 14px; }
.field { position: relative; width: 100%; height: 100%; }
.dot { position: absolute; width: 12px; height: 12px; margin: -6px; border-radius: 50%; border: 1px solid var(--card);
  background: var(--tone); cursor: pointer; }
.dot:hover, .dot:focus { outline: 3px solid var(--ink); z-index: 2; }
.shots { grid-template-columns: repeat(4, minmax(0, 240px)); }
@media (max-width: 600px) {
  .dot { width: 9px; height: 9px; margin: -4.5px; }
  .shots { grid-template-columns: 1fr 1fr; }
}
.tip { display: none; position: absolute; left: 16px; top: 16px; width: min(176px, 44vw); background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; padding: 6px; font-size: 0.8rem; line-height: 1.3;
  overflow-wrap: anywhere; box-shadow: 0 4px 16px #0005; pointer-events: none; }
.dot:hover .tip, .dot:focus .tip { display: block; }
.east .tip { left: auto; right: 16px; }
.south .tip { top: auto; bottom: 16px; }
.tip img { display: block; width: 100%; height: auto; border-radius: 4px; margin-bottom: 4px; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 50%; background: var(--tone);
  margin-right: 8px; }
""" + "".join(
    f".c{index} {{ --tone: hsl({hue} 65% {52 if index % 2 else 42}%); }}\n"
    for index, hue in enumerate((215, 28, 140, 330, 50, 270, 180, 0, 95, 300, 235, 160))
)


def write_description_page(
    folder: str,
    out: Path,
    *,
    overview: FolderOverview | None = None,
    differences: FolderDescription | None = None,
    against: str | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Write the overview and the differences of a folder as one self-contained HTML file.

    ``against`` is the folder that ``differences`` refer to; None for all other videos of the index. Raise VidretError
    if the file cannot be written.
    """
    others = "the other videos of the index" if against is None else display_path(against)
    title = display_path(folder) if differences is None or overview else f"{display_path(folder)} against {others}"
    frames = _FrameCounter(overview, differences, on_progress)
    sections = [f"<h1>{escape_text(title)}</h1>"]
    if overview is not None:
        sections += render_overview(overview, frames)
    if differences is not None:
        sections += ["<h2>What sets it apart</h2>"] if overview is not None else []
        sections += render_differences(differences, others, frames)
    write_document(title, sections, out, style=STYLE)


def render_overview(found: FolderOverview, frames: "_FrameCounter") -> Iterator[str]:
    """Yield the sections of an overview."""
    yield render_facts(list_facts(found))
    yield "<h2>Clusters</h2>"
    for cluster_index, cluster in enumerate(found.clusters):
        yield render_cluster(cluster_index, cluster, found, frames)
    yield f"<h2>Map of {len(found.map_points)} of {found.num_segments} segments</h2>"
    yield '<p class="facts">Near dots look alike; colours are clusters. Point at a dot, or touch it, for its frame.</p>'
    dots = "".join(render_dot(point, frames) for point in found.map_points)
    yield f'<div class="map"><div class="field">{dots}</div></div>'
    if found.look_alikes:
        yield "<h2>Look-alikes</h2>"
        yield '<p class="facts">Videos whose vectors are nearly equal. vidret duplicates compares their frames.</p>'
        rows = [[f"{pair.cosine:.3f}", *map(display_path, pair.paths)] for pair in found.look_alikes]
        yield render_table((("cosine", "video", "and"), rows))
    if found.outliers:
        yield "<h2>Unlike all others</h2>"
        shots = (
            frames.render(
                outlier.path, None, file_name(outlier.path), f"{outlier.deviation:.1f} deviations from the rest"
            )
            for outlier in found.outliers
        )
        yield f'<div class="shots">{"".join(shots)}</div>'


def list_facts(found: FolderOverview) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each number about a folder, in words."""
    yield "videos", f"{found.num_videos}, {format_hours(found.hours)}, {format_count(found.num_segments, 'segment')}"
    yield from describe_word_use(found.words)


def format_hours(hours: float) -> str:
    """Return a duration as hours, or as minutes if it is less than one hour."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def describe_word_use(words: WordUse) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each fact about spoken and shown words."""

    def describe(share: WordShare | None) -> str:
        if share is None:
            return "not read; vidret index --words on reads it"
        percent = 100 * share.num_with / share.num_read
        return f"in {share.num_with} of {format_count(share.num_read, 'video')} ({percent:.0f} %)"

    yield "speech", describe(words.said)
    if words.languages:
        listed = (
            f"{language.code} in {language.num_videos} ({format_hours(language.hours)})" for language in words.languages
        )
        yield "languages", ", ".join(listed)
    yield "text", describe(words.shown)


def render_cluster(number: int, cluster: ContentCluster, found: FolderOverview, frames: "_FrameCounter") -> str:
    """Return a cluster with its colour, phrases, sizes and frames."""
    name = ", ".join(cluster.phrases) or "all segments"
    share = 100 * cluster.num_segments / found.num_segments
    size = f"{share:.0f} % of the segments ({cluster.num_segments})"
    videos = format_count(cluster.num_videos, "video")
    facts = f"{size}, {videos}, {format_hours(cluster.hours)}"
    heading = f'<h3><span class="swatch c{number % NUM_COLOURS}"></span>{escape_text(name)}</h3>'
    return f'<article>{heading}<p class="facts">{facts}</p>{render_frames(cluster.examples, frames)}</article>'


def render_dot(point: MapPoint, frames: "_FrameCounter") -> str:
    """Return a dot of the map with its frame, which opens towards the middle."""
    sides = f"{' east' if point.x > 0.5 else ''}{' south' if point.y > 0.5 else ''}"
    place = f"left:{100 * point.x:.2f}%;top:{100 * point.y:.2f}%"
    name = f"{file_name(point.frame.path)} {format_time(point.frame.time)}"
    tip = f'<span class="tip">{frames.read_small(point.frame)}{escape_text(name)}</span>'
    return f'<span class="dot c{point.cluster % NUM_COLOURS}{sides}" style="{place}" tabindex="0">{tip}</span>'


def render_differences(found: FolderDescription, others: str, frames: "_FrameCounter") -> Iterator[str]:
    """Yield the phrases that set a folder apart in each direction, with frames."""
    videos, phrases = format_count(found.num_videos, "video"), format_count(found.num_phrases, "phrase")
    counts = f"{videos}, compared with {found.num_others} by {phrases}."
    yield f'<p class="facts">{counts} AUROC is the chance that a phrase fits a video of one set better than one of the '
    yield "other; p is corrected for the number of phrases.</p>"
    for title, ranked in ((f"More than in {others}", found.more), (f"Less than in {others}", found.less)):
        yield f"<h2>{escape_text(title)}</h2>"
        significant = [phrase for phrase in ranked if phrase.significant]
        if not significant:
            yield '<p class="note">No phrase is beyond chance.</p>'
        for phrase in significant:
            facts = f"{phrase.kind}, AUROC {phrase.auroc:.3f}, p {phrase.adjusted_p:.2g}"
            heading = f'<h3>{escape_text(phrase.phrase)}</h3><p class="facts">{facts}</p>'
            yield f"<article>{heading}{render_frames(phrase.examples, frames)}</article>"


def render_frames(examples: Sequence[ExampleFrame], frames: "_FrameCounter") -> str:
    """Return a row of frames with their videos and times."""
    shots = (
        frames.render(example.path, example.time, file_name(example.path), format_time(example.time))
        for example in examples
    )
    return f'<div class="shots">{"".join(shots)}</div>' if examples else ""


class _FrameCounter:
    """Reads frames, and reports how many are done."""

    def __init__(
        self, overview: FolderOverview | None, differences: FolderDescription | None, on_progress: OnProgress | None
    ) -> None:
        self._large, self._small = FrameImages(), FrameImages(size=MAP_IMAGE)
        self._on_progress, self._done, self._total = on_progress, 0, 0
        if overview is not None:
            self._total += len(overview.map_points) + len(overview.outliers)
            self._total += sum(len(cluster.examples) for cluster in overview.clusters)
        if differences is not None:
            ranked = chain(differences.more, differences.less)
            self._total += sum(len(phrase.examples) for phrase in ranked if phrase.significant)

    def render(self, path: str, time_s: float | None, title: str, line: str) -> str:
        """Return a frame with a caption."""
        return self._count(self._large.render(path, time_s, title, line, ""))

    def read_small(self, frame: ExampleFrame) -> str:
        """Return a small frame."""
        return self._count(self._small.read(frame.path, frame.time))

    def _count(self, image: str) -> str:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)
        return image
