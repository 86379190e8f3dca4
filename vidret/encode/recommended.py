"""Recommended models, which have short names, and the published results that they are recommended for.

No number here was measured by vidret: these weights could not be had where it is developed. Recalls of different
authors cannot be compared, since each counts other rows and frames; ``vidret eval rate`` rates models by one protocol.
"""

from dataclasses import dataclass

PROTOCOL = "zero-shot, text to video, as its authors ran it; others count 879 or 1000 rows, and other frames"
MMEB = "zero-shot, text to video, by the authors' MMEB-v2 script; in CLIP4Clip's protocol a user measured 31.6"


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """Recall at 1 on MSR-VTT in percent, as published; numbers of different protocols cannot be compared."""

    recall_at_1: float
    source: str
    protocol: str = PROTOCOL


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


_PE = "authors of PE-Core"
PUBLISHED = {
    "PE-Core-T-16-384/meta": PublishedResult(28.8, _PE),
    "PE-Core-S-16-384/meta": PublishedResult(39.3, _PE),
    "PE-Core-B-16/meta": PublishedResult(47.6, _PE),
    "PE-Core-L-14-336/meta": PublishedResult(50.3, _PE),
    "PE-Core-bigG-14-448/meta": PublishedResult(51.2, _PE),
    "st:Qwen/Qwen3-VL-Embedding-2B": PublishedResult(53.8, "its authors", MMEB),
    "st:Qwen/Qwen3-VL-Embedding-8B": PublishedResult(58.2, "its authors", MMEB),
    "hf:google/videoprism-lvt-base-f16r288": PublishedResult(50.1, "authors of VideoPrism, who give it for LvT"),
}
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
