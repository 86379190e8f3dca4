"""Rating encoders by one protocol: the same videos, captions and scores, and paired intervals of differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from vidret.encode.encoder import WHOLE, Encoder
from vidret.encode.speed import EncodingSpeed
from vidret.evaluate.comparing import compare_reports
from vidret.evaluate.report import Report
from vidret.metrics.retrieval import PLAIN

# What is equal for all models. What differs is stated for each: its frames, their size, and its prompts.
PROTOCOL = (
    "Each video is one segment. Its frames are the closest to the start of each second, reduced evenly to the model's "
    "number; each is resized as the model was trained. A video's vector is the mean of its frames' vectors, or the "
    "model's own for videos. Captions are encoded as they are, besides the model's own prompts. A score is a cosine; "
    "nothing is reranked, and no hubness is corrected. Of ties, the mean rank counts; a tie for first place is no hit "
    "at 1. From video to text, the best caption of a video counts."
)
MAIN = "R@1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedModel:
    """An encoder's report, and what it costs.

    Attributes:
        name: Its name.
        frames: Number of frames that it sees of a video.
        side: Side of a frame in pixels.
        prompts: Texts that it puts before queries or frames, by kind.
        speed: Its speed on this machine.
        report: The content of its report.
    """

    name: str
    frames: int
    side: int
    prompts: Mapping[str, str]
    speed: EncodingSpeed
    report: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the model for a file, without each query."""
        rows = [row for row in self.report["results"]["rows"] if row["label"] == PLAIN]
        facts = {"name": self.name, "frames": self.frames, "side": self.side, "prompts": dict(self.prompts)}
        return {**facts, **asdict(self.speed), "results": {row["direction"]: row for row in rows}}


def describe_rated(encoder: Encoder, speed: EncodingSpeed, report: Report) -> RatedModel:
    """Return an encoder with its report and speed."""
    return RatedModel(
        name=encoder.name.removesuffix(WHOLE),
        frames=encoder.sampling.num_frames,
        side=encoder.resize.crop,
        prompts=getattr(encoder, "prompts", {}),
        speed=speed,
        report=report.to_dict(),
    )


def compare_models(models: Sequence[RatedModel], *, seed: int = 0) -> list[dict[str, Any]]:
    """Return the comparison of each pair by recall at 1 from text to video, with a paired interval of 95 %.

    Raises:
        VidretError: The models were not rated on the same videos.
    """
    rows = []
    for first, second in combinations(models, 2):
        compared = compare_reports(first.report, second.report, seed=seed)
        row = next(each for each in compared if each["metric"] == MAIN)
        rows.append({"models": [first.name, second.name], **row})
    return rows
