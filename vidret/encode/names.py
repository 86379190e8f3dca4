"""Names of models: the parser of ``--model``, and the short names of recommended models.

A name is ``SCHEME:REST``, such as ``hf:org/name`` or ``package.module:Class``, or ``ARCHITECTURE/WEIGHTS``, or a path;
then marks, if any: ``#merge=LEVEL``, ``#frames=N``, ``#fps=N``, ``#until=SECONDS``, ``#rule=RULE``, ``#words=N``,
``#dims=N``, ``#pixels=N``, and last ``#whole``. Two names with `` + `` between them are a pair: marks at its end apply
to both, except ``#merge``.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from vidret.errors import EncoderError
from vidret.types import FRAME_RULES, FrameRule, Sampling

STARTER = "starter"
WHOLE = "#whole"
MERGE = "#merge="
RANDOM = "random"
PAIR = " + "
HUB, FOLDER = OPEN_CLIP_SCHEMES = ("hf-hub", "local-dir")
FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

MARKS: dict[str, tuple[str, type]] = {  # mark: field of ``ModelName`` and its type
    "frames": ("frames", int),
    "fps": ("fps", float),
    "until": ("until_s", float),
    "rule": ("rule", str),
    "words": ("words", int),
    "dims": ("dims", int),
    "pixels": ("pixels", int),
}
MARK = re.compile(rf"#(?P<mark>{'|'.join(MARKS)})=(?P<value>[^#]*)$")

MergeLevel = Literal["off", "gentle", "half"]
MERGE_LEVELS: tuple[MergeLevel, ...] = get_args(MergeLevel)
OFF: MergeLevel = "off"


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed name; ``str`` returns the text again.

    Attributes:
        base: The model: the text before the marks.
        merge: Level of token merging.
        frames: Frames per segment, instead of the model's own.
        fps: Frames per second, instead of the model's own.
        until_s: Where a whole video ends; None for its own end.
        rule: How a whole video is sampled, instead of the model's own.
        words: Number of tokens to truncate texts to; None splits texts that are too long for the model.
        dims: Number of first dimensions to keep, for a model trained for that (Matryoshka); None for all.
        pixels: Maximum pixels per frame, for a model that takes frames of any size; None for the model's own.
        whole: Whether every video is one segment.
    """

    base: str
    merge: MergeLevel = OFF
    whole: bool = False
    frames: int | None = None
    fps: float | None = None
    until_s: float | None = None
    rule: FrameRule | None = None
    words: int | None = None
    dims: int | None = None
    pixels: int | None = None

    def __str__(self) -> str:
        values = [(mark, kind, getattr(self, name)) for mark, (name, kind) in MARKS.items()]
        marks = "".join(
            f"#{mark}={repr(float(value)).removesuffix('.0') if kind is float else value}"
            for mark, kind, value in values
            if value is not None
        )
        return f"{self.base}{'' if self.merge == OFF else MERGE + self.merge}{marks}{WHOLE if self.whole else ''}"

    def sample(self, default: Sampling) -> Sampling:
        """Return the sampling of a model, changed by the marks."""
        return replace(
            default,
            num_frames=self.frames or default.num_frames,
            fps=self.fps or default.fps,
            until_s=self.until_s,
            rule=self.rule or default.rule,
            whole=self.whole,
        )

    @property
    def scheme(self) -> str:
        """The text before the first colon; empty without one."""
        return self.base.partition(":")[0] if ":" in self.base else ""

    @property
    def rest(self) -> str:
        """The text after the first colon; all of it without one."""
        return self.base.partition(":")[2] or self.base

    @property
    def architecture(self) -> str:
        """The architecture of open_clip: the text before the first slash, or all of a repository or a folder."""
        return self.base if self.scheme in OPEN_CLIP_SCHEMES else self.base.partition("/")[0]

    @property
    def weights(self) -> str:
        """The tag or the path of the weights: the text after the architecture and a slash; empty without one."""
        return self.base.removeprefix(self.architecture).removeprefix("/")


def parse_model_name(name: str) -> ModelName:
    """Parse a name; a short name is not resolved.

    Raises:
        EncoderError: The level of merging or the rule is unknown, or a number is not positive.

    >>> parsed = parse_model_name("ViT-B-16/openai#merge=half#frames=64#whole")
    >>> parsed.base, parsed.merge, parsed.frames, parsed.whole
    ('ViT-B-16/openai', 'half', 64, True)
    """
    unmarked, is_whole = name.removesuffix(WHOLE), name.endswith(WHOLE)
    marks: dict[str, Any] = {}
    while match := MARK.search(unmarked):
        unmarked = unmarked[: match.start()]
        field, kind = MARKS[match["mark"]]
        marks[field] = _read_mark(match["mark"], match["value"], kind)
    if MERGE not in unmarked or PAIR in unmarked:
        return ModelName(unmarked, whole=is_whole, **marks)
    base, _, level = unmarked.rpartition(MERGE)
    for merge_level in MERGE_LEVELS:
        if level == merge_level:
            return ModelName(base, merge_level, whole=is_whole, **marks)
    raise EncoderError(f"{MERGE} must be followed by {', '.join(MERGE_LEVELS)}, got {level}")


def _read_mark(mark: str, text: str, kind: type) -> Any:
    """Return the value of a mark: a rule, or a positive number."""
    if kind is str:
        if text not in FRAME_RULES:
            raise EncoderError(f"#{mark} must be one of {', '.join(FRAME_RULES)}, got {text}")
        return text
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise EncoderError(f"#{mark} must be a positive {'integer' if kind is int else 'number'}, got {text}")
    return value


def set_merge(name: str, level: MergeLevel) -> str:
    """Return a name with its level of merging replaced."""
    return str(replace(parse_model_name(name), merge=level))


def drop_sampling(name: str) -> str:
    """Return a name without the marks of sampling and truncation, which do not affect encoding."""
    parsed = parse_model_name(name)
    return str(ModelName(parsed.base, parsed.merge, dims=parsed.dims, pixels=parsed.pixels))


def refuse_sizes(name: ModelName) -> None:
    """Raise EncoderError if ``#dims`` or ``#pixels`` is given, for a model with fixed sizes of vectors and frames."""
    for mark in ("dims", "pixels"):
        if getattr(name, mark) is not None:
            raise EncoderError(f"{mark} must not be given for {name.base}, which is not a Qwen3-VL-Embedding")


def refuse_marks(name: ModelName) -> None:
    """Raise EncoderError if ``#merge`` or ``#words`` is given, for a model that supports neither."""
    if name.words is not None:
        raise EncoderError(f"words must not be given for {name.base}, which is not of CLIP's standard blocks")
    if name.merge != OFF:
        rule = "which is not a ViT with CLIP's standard blocks"
        raise EncoderError(f"merge must be off for {name.base}, {rule}, got {name.merge}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A model with a short name.

    Attributes:
        model: Its full name, which an index records.
        purpose: Its purpose.
        device: The least device for an acceptable speed.
        evidence: The reason for the recommendation, with the source.
        licence: The licence of its weights.
        size_bytes: Size of the download.
        frames_per_s: Frames per second on one core of an AMD EPYC in bf16, with random weights; None if not measured.
        languages: The languages of its queries.
        merge: Level of token merging, unless its full name is given.
    """

    model: str
    purpose: str
    device: str
    evidence: str
    licence: str
    size_bytes: int
    frames_per_s: float | None
    languages: str = "English"
    merge: MergeLevel = OFF


RECOMMENDED = {
    "small": Recommendation(
        model="ViT-B-32/laion2b_s34b_b79k",
        purpose="a laptop without a GPU",
        device="CPU",
        evidence="the fastest CLIP: 50 tokens a frame, int8 and bf16 on CPUs; ImageNet zero-shot 66.6 % (open_clip)",
        licence="MIT",
        size_bytes=605_000_000,
        frames_per_s=58,
        merge="gentle",
    ),
    "good": Recommendation(
        model="PE-Core-B-16/meta",
        purpose="a workstation",
        device="CPU or GPU",
        evidence="R@1 on MSR-VTT 47.6 (its authors)",
        licence="Apache-2.0",
        size_bytes=1_791_000_000,
        frames_per_s=8.4,
    ),
    "best": Recommendation(
        model="PE-Core-L-14-336/meta",
        purpose="a server with a GPU",
        device="GPU",
        evidence="R@1 on MSR-VTT 50.3 (its authors); bigG has 51.2 with 3.5 times the weights",
        licence="Apache-2.0",
        size_bytes=2_684_000_000,
        frames_per_s=0.6,
    ),
    "video": Recommendation(
        model="hf:Qwen/Qwen3-VL-Embedding-2B",
        purpose="finding whole shots by what happens in them; no moments within them",
        device="GPU",
        evidence="R@1 on MSR-VTT 53.8 by MMEB-V2 (its authors), with 64 frames and an instruction",
        licence="Apache-2.0",
        size_bytes=4_300_000_000,
        frames_per_s=None,
        languages="over 30 languages",
    ),
    "multilingual": Recommendation(
        model="ViT-B-16-SigLIP2-256/webli",
        purpose="queries in many languages",
        device="CPU or GPU",
        evidence="trained on captions in 109 languages, 90 % from English pages (its authors)",
        licence="Apache-2.0",
        size_bytes=1_501_000_000,
        frames_per_s=None,
        languages="109 languages",
    ),
}


def resolve_name(name: ModelName) -> ModelName:
    """Return a name with the short name of a recommended model resolved; other names stay unchanged.

    >>> resolve_name(ModelName("good")).base, resolve_name(ModelName("ViT-B-32/openai")).base
    ('PE-Core-B-16/meta', 'ViT-B-32/openai')
    """
    recommended = RECOMMENDED.get(name.base)
    if recommended is None:
        return name
    return replace(name, base=recommended.model, merge=recommended.merge if name.merge == OFF else name.merge)


PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")


def check_precision(precision: str) -> None:
    """Raise EncoderError unless the name of a precision is known."""
    if precision not in PRECISIONS:
        raise EncoderError(f"precision must be auto, fp32, bf16, fp16 or int8, got {precision}")
