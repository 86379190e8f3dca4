"""Frame vectors of a clip that need not be part of an index."""

import numpy as np
from jaxtyping import Float, Float64

from vidret.encode.encoder import Encoder
from vidret.index.stages import encode_segments
from vidret.video.pool import DecodedSegment, DecodePool, OpenedVideo

RATE = 2.0  # frames per second, twice those of an index, so that some lie close to its frames
TIMEOUT_S = 60.0


def encode_clip(
    encoder: Encoder, path: str, start: float | None, end: float | None
) -> tuple[Float[np.ndarray, "frame dim"], Float64[np.ndarray, " frame"], float, float]:
    """Return the frame vectors of a clip with their times, and when the clip begins and ends, all in seconds.

    Args:
        encoder: The encoder of the index.
        path: Path or URL of the file.
        start: Where to begin in the file; None for its beginning.
        end: Where to end; None for its end.

    Raises:
        DecodeError: The file cannot be read as video.
    """
    extent = [0.0, 0.0]

    def skip(opened: OpenedVideo) -> set[int]:
        """Return the segments that lie outside the clip."""
        extent[0] = opened.start if start is None else max(start, opened.start)
        extent[1] = opened.duration if end is None else min(end, opened.duration)
        return {number for number, first, last in opened.cuts if last < extent[0] or first > extent[1]}

    vectors, times = [np.empty((0, encoder.dim), np.float32)], [np.empty(0, np.float64)]
    num_frames = encoder.sampling.num_frames
    with DecodePool(1, resize=encoder.resize, num_frames=num_frames, fps=RATE, timeout=TIMEOUT_S) as pool:
        for message in pool.stream(path, skip=skip):
            if isinstance(message, DecodedSegment):
                (embedding,) = encode_segments(encoder, [message.frames], pack=None, tokens=False)
                kept = (embedding.times >= extent[0]) & (embedding.times <= extent[1])
                vectors.append(np.asarray(embedding.frames[kept], np.float32))
                times.append(embedding.times[kept])
    return np.concatenate(vectors), np.concatenate(times), extent[0], extent[1]
