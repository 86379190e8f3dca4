"""Names of models: short names of recommended ones, and the marks at the end of a name."""

from dataclasses import dataclass
from typing import Literal, get_args

from vidret.errors import EncoderError

STARTER = "starter"
WHOLE = "#whole"

MergeLevel = Literal["off", "gentle", "half"]
MERGE_LEVELS: tuple[MergeLevel, ...] = get_args(MergeLevel)
OFF: MergeLevel = "off"
MARK = "#merge="


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A model with a short name.

    Attributes:
        model: Its full name, which an index records.
        purpose: What it is for.
        evidence: Why it is recommended, with the source.
        licence: The licence of its weights.
        size_bytes: Size of its weights in fp32, about that of the download.
        languages: The languages of its queries.
    """

    model: str
    purpose: str
    evidence: str
    licence: str
    size_bytes: int
    languages: str = "English"


RECOMMENDED = {
    "small": Recommendation(
        model="ViT-B-32/laion2b_s34b_b79k",
        purpose="a laptop without a GPU",
        evidence="the fastest CLIP: 50 tokens a frame, int8 and bf16 on CPUs; ImageNet zero-shot 66.6 % (open_clip)",
        licence="MIT",
        size_bytes=605_000_000,
    ),
    "good": Recommendation(
        model="PE-Core-B-16/meta",
        purpose="a workstation",
        evidence="R@1 on MSR-VTT 47.6 (its authors)",
        licence="Apache-2.0",
        size_bytes=1_791_000_000,
    ),
    "best": Recommendation(
        model="PE-Core-bigG-14-448/meta",
        purpose="a server with a GPU",
        evidence="R@1 on MSR-VTT 51.2 (its authors)",
        licence="Apache-2.0",
        size_bytes=9_400_000_000,
    ),
    "multilingual": Recommendation(
        model="ViT-B-16-SigLIP2-256/webli",
        purpose="queries in many languages",
        evidence="trained on captions in 109 languages, 90 % from English pages (its authors)",
        licence="Apache-2.0",
        size_bytes=1_501_000_000,
        languages="109 languages",
    ),
}


def resolve_name(name: str) -> str:
    """Return the full name of a recommended model, and any other name as it is.

    >>> resolve_name("good"), resolve_name("ViT-B-32/openai")
    ('PE-Core-B-16/meta', 'ViT-B-32/openai')
    """
    return RECOMMENDED[name].model if name in RECOMMENDED else name


def find_short_name(model: str) -> str:
    """Return the short name of a recommended model; empty if it has none."""
    return next((short for short, each in RECOMMENDED.items() if each.model == model), "")


def split_merge(name: str) -> tuple[str, MergeLevel]:
    """Return the name of an encoder without its merging, and the level of its merging.

    Raises:
        EncoderError: The level is unknown.
    """
    name, whole = name.removesuffix(WHOLE), WHOLE if name.endswith(WHOLE) else ""
    plain, mark, level = name.rpartition(MARK)
    if not mark:
        return name + whole, OFF
    for known in MERGE_LEVELS:
        if level == known:
            return plain + whole, known
    raise EncoderError(f"{MARK} must be followed by {', '.join(MERGE_LEVELS)}, got {level}")


def join_merge(name: str, level: MergeLevel) -> str:
    """Return the name of an encoder at a level of merging, whatever its level was."""
    plain = split_merge(name)[0]
    base, whole = plain.removesuffix(WHOLE), WHOLE if plain.endswith(WHOLE) else ""
    return f"{base}{'' if level == OFF else MARK + level}{whole}"


def refuse_merge(name: str, level: MergeLevel) -> None:
    """Raise EncoderError for a model that cannot merge tokens, unless merging is off."""
    if level != OFF:
        raise EncoderError(f"merge must be off for {name}, which is not a ViT with CLIP's standard blocks, got {level}")
