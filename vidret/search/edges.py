"""Refinement of the edges of moments at query time: frames between stored ones are decoded, encoded and compared.

An edge of the similarity curve lies between two stored frames, often a second apart. A binary search among evenly
spaced frames between them finds where the score crosses the middle between its levels inside and outside the moment.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vidret.channels.picture.evidence import FrameScorer
from vidret.encode.encoder import Encoder
from vidret.errors import DecodeError
from vidret.text import strip_query
from vidret.types import Curve, Frames, Moment, Vector
from vidret.video.files import stat_file
from vidret.video.workers.image_pool import ImagePool

logger = logging.getLogger(__name__)

NUM_FRAMES = 7  # decoded between two stored frames; a search among them encodes three
NEAR = 3  # stored frames on either side of an edge that set the levels
MAX_REMEMBERED = 4096  # vectors, about 8 MB
_TIE_S = 1e-3


@dataclass(slots=True, eq=False)
class _OpenEdge:
    """An edge of a moment between two stored frames, its ``start`` or ``end``, and the state of its binary search.

    Attributes:
        moment: Index of its moment.
        wanted_s: Times of the frames to look at, rising.
        threshold: Score at the edge.
        times_s: Start times of these frames, and of the stored ones before and after them.
        pictures: The frames that were decoded, by the index of their time.
        first: The lowest index that may be the first beyond the edge.
        last: The last such index.
    """

    moment: int
    side: str
    video_id: int
    path: str
    wanted_s: list[float]
    threshold: float
    times_s: list[float]
    pictures: dict[int, Frames] = field(default_factory=dict)
    first: int = 0
    last: int = NUM_FRAMES

    @property
    def middle(self) -> int:
        return (self.first + self.last) // 2

    def narrow(self, score: float) -> None:
        """Halve the search by the score of the frame in its middle."""
        if (score >= self.threshold) == (self.side == "start"):
            self.last = self.middle
        else:
            self.first = self.middle + 1

    def time_s(self) -> float:
        """Return the time of the edge."""
        return (self.times_s[self.first] + self.times_s[self.first + 1]) / 2


class EdgeRefiner:
    """Moves the edges of moments to where the score of the query crosses a threshold between stored frames.

    Vectors are cached, so that other queries for the same edges are fast.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Set the encoder; a decoding process starts with the first edge."""
        self._encoder, self._pool = encoder, ImagePool(1)
        self._remembered: OrderedDict[tuple[int, float], tuple[float, Vector]] = OrderedDict()
        self._lock = threading.Lock()  # guards the cache

    def refine(
        self, moments: Sequence[Moment], curves: Mapping[int, tuple[Curve, FrameScorer]], sizes: Mapping[str, int]
    ) -> list[Moment]:
        """Return moments with precise edges, in the same order, given the curves of videos and the bytes of files.

        Edges at cuts, gaps and the ends of a video stay, as do those that two moments share. Those of a video that
        cannot be read or has another size now stay too, which is logged.
        """
        if not getattr(self._encoder, "encodes_frames_alone", False):
            logger.warning("edges are not refined: %s encodes frames together", self._encoder.name)
            return list(moments)
        starts, ends = ({(moment.video, getattr(moment, side)) for moment in moments} for side in ("start", "end"))
        shared = starts & ends  # at which one moment ends and another begins
        edges = [
            edge
            for index, moment in enumerate(moments)
            if moment.by == "curve" and moment.video in curves
            for edge in _open_edges(index, moment, curves[moment.video][0])
            if (moment.video, getattr(moment, edge.side)) not in shared
        ]
        lost: set[int] = set()
        while searched := [edge for edge in edges if edge.first < edge.last and edge.video_id not in lost]:
            with self._lock:
                self._look(searched, sizes, lost)
                vectors = [self._remembered.get((edge.video_id, edge.wanted_s[edge.middle])) for edge in searched]
            for edge, remembered in zip(searched, vectors, strict=True):
                if remembered is not None and edge.video_id not in lost:
                    edge.times_s[edge.middle + 1], vector = remembered
                    edge.narrow(float(curves[edge.video_id][1].score(vector[None])[0]))
        found = [edge for edge in edges if edge.video_id not in lost]
        return [_move(moment, [edge for edge in found if edge.moment == index]) for index, moment in enumerate(moments)]

    def _look(self, edges: Sequence[_OpenEdge], sizes: Mapping[str, int], lost: set[int]) -> None:
        """Encode the middle frame of each search, unless it is cached; add videos that cannot be read to ``lost``."""
        missing = []
        for edge in edges:
            key = edge.video_id, edge.wanted_s[edge.middle]
            if key in self._remembered:
                self._remembered.move_to_end(key)
            else:
                missing.append(edge)
        for video_id in {edge.video_id: None for edge in missing if not edge.pictures}:
            video_edges = [edge for edge in missing if edge.video_id == video_id and not edge.pictures]
            try:
                self._decode(video_edges, sizes.get(video_edges[0].path))
            except DecodeError as error:
                logger.warning("edges are not refined: %s", strip_query(str(error)))
                lost.add(video_id)
        missing = [edge for edge in missing if edge.video_id not in lost]
        pictures = [edge.pictures[edge.middle] for edge in missing]
        for edge, embedding in zip(missing, self._encoder.encode_frames(pictures) if pictures else [], strict=True):
            key = edge.video_id, edge.wanted_s[edge.middle]
            self._remembered[key] = float(embedding.times[0]), embedding.frames[0]
        while len(self._remembered) > max(MAX_REMEMBERED, len(edges)):  # the last ones are those of these edges
            self._remembered.popitem(last=False)

    def _decode(self, edges: Sequence[_OpenEdge], num_bytes: int | None) -> None:
        """Decode the frames of some edges of one video.

        Raises:
            DecodeError: The file is missing, has another size than at indexing, or cannot be read.
        """
        path = edges[0].path
        file_stat = stat_file(path)
        if num_bytes is not None and file_stat.st_size != num_bytes:
            raise DecodeError(path, "has changed since it was indexed")
        wanted = sorted({time for edge in edges for time in edge.wanted_s})
        frames = self._pool.read_frames(path, file_stat, wanted, self._encoder.resize)
        for edge in edges:
            for index, time in enumerate(edge.wanted_s):
                row = int(np.abs(frames.times - time).argmin())
                edge.pictures[index] = Frames(frames.pixels[row : row + 1], frames.times[row : row + 1])


def _open_edges(index: int, moment: Moment, curve: Curve) -> list[_OpenEdge]:
    """Return the edges of a moment that lie between two stored frames, not at a cut or a gap."""
    edges = []
    times = curve.times
    fixed = [curve.start, curve.end, *curve.cuts, *(edge for gap in curve.gaps for edge in gap)]
    for side, time in (("start", moment.start), ("end", moment.end)):
        after = int(np.searchsorted(times, time))
        if not 0 < after < len(times) or any(abs(time - other) < _TIE_S for other in fixed):
            continue
        first, last = np.searchsorted(times, (moment.start, moment.end))
        least, most = (after - NEAR, last) if side == "start" else (first, after + NEAR)
        before = curve.scores[max(least, after - NEAR, 0) : after]
        beyond = curve.scores[after : min(most, after + NEAR)]
        grid = np.linspace(times[after - 1], times[after], NUM_FRAMES + 2).tolist()
        threshold = (float(before.mean()) + float(beyond.mean())) / 2
        edges.append(_OpenEdge(index, side, moment.video, moment.path, grid[1:-1], threshold, grid))
    return edges


def _move(moment: Moment, edges: Sequence[_OpenEdge]) -> Moment:
    """Return a moment with its new edges; unchanged if it would become empty."""
    moved = {edge.side: edge.time_s() for edge in edges}
    start, end = moved.get("start", moment.start), moved.get("end", moment.end)
    return replace(moment, start=start, end=end) if start < end else moment
