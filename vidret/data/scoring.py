"""How a benchmark scores predicted spans and saliency."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Length ranges of true spans in seconds: exclusive minimum, inclusive maximum.
Lengths = Mapping[str, tuple[float, float]]
QVHIGHLIGHTS_LENGTHS: Lengths = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}
OPEN_LENGTHS: Lengths = {"short": (0, 10), "middle": (10, 30), "long": (30, math.inf)}

SaliencyMetric = Literal["levels", "top-5", "all-clips"]


@dataclass(frozen=True, slots=True)
class Scoring:
    """The scoring rules of a benchmark.

    Attributes:
        lengths: Length ranges of true spans that are reported separately.
        saliency: Metric of saliency: mAP and HIT@1 by rating level (QVHighlights), mAP of the five best clips
            (TVSum), or mAP of all clips (YouTube Highlights). ``vidret.metrics.highlight`` implements them.
    """

    lengths: Lengths = field(default_factory=lambda: OPEN_LENGTHS, hash=False)
    saliency: SaliencyMetric = "levels"


DEFAULT_SCORING = Scoring()
