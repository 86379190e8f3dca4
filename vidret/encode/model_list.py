"""The models that can be loaded on this machine: installed, in the cache of the hub, or to download.

vidret has measured none of the published numbers, since these weights were not available. Recalls of different authors
are not comparable, since each uses other rows and frames; ``vidret eval rate`` rates models by one protocol.
"""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import huggingface_hub

from vidret.encode.families.qwen3_vl import CONTEXT
from vidret.encode.families.qwen3_vl import MODEL_TYPE as QWEN
from vidret.encode.families.registry import list_entry_points
from vidret.encode.families.starter import CLASSIFIER, StarterEncoder
from vidret.encode.families.transformers_models import MODEL_TYPES
from vidret.encode.model_hub import find_cached
from vidret.encode.names import RECOMMENDED, STARTER, ModelName
from vidret.encode.open_clip_models import list_weight_files
from vidret.encode.open_clip_parts import import_part, read_configs
from vidret.encode.sentences import CONTEXT_LENGTH, SENTENCES

PROTOCOL = "zero-shot, text to video, as its authors ran it; others count 879 or 1000 rows, and other frames"
MMEB = "zero-shot, text to video, by the authors' MMEB-v2 script; in CLIP4Clip's protocol a user measured 31.6"


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """Published recall at 1 on MSR-VTT in percent; numbers by different protocols are not comparable."""

    recall_at_1: float
    source: str
    protocol: str = PROTOCOL


_PE = "authors of PE-Core"
PUBLISHED = {
    "PE-Core-T-16-384/meta": PublishedResult(28.8, _PE),
    "PE-Core-S-16-384/meta": PublishedResult(39.3, _PE),
    "PE-Core-B-16/meta": PublishedResult(47.6, _PE),
    "PE-Core-L-14-336/meta": PublishedResult(50.3, _PE),
    "PE-Core-bigG-14-448/meta": PublishedResult(51.2, _PE),
    "hf:Qwen/Qwen3-VL-Embedding-2B": PublishedResult(53.8, "its authors", MMEB),
    "hf:Qwen/Qwen3-VL-Embedding-8B": PublishedResult(58.2, "its authors", MMEB),
    "hf:google/videoprism-lvt-base-f16r288": PublishedResult(50.1, "authors of VideoPrism, who give it for LvT"),
}

ModelState = Literal["installed", "cached", "needs download", "needs extra"]
# Models of open_clip listed even if not cached, besides those that are recommended or have results.
SUGGESTED = ("MobileCLIP2-S0/dfndr2b", "ViT-H-14-worldwide-quickgelu/metaclip2_worldwide")
SUGGESTED_TRANSFORMERS = ("hf:facebook/pe-av-base-16-frame",)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A model that ``--model`` accepts. None or an empty text means unknown before the model is loaded.

    Attributes:
        name: The name for ``--model``.
        state: Whether it is on this machine.
        extra: The extra that it needs, if that is not installed.
        dim: The dimension of its vectors.
        tokens: The maximum number of tokens of a text.
        languages: The languages of its queries.
        licence: The licence of its weights.
        published: A published result.
        short_name: Its short name, if it is recommended.
    """

    name: str
    state: ModelState
    extra: str = ""
    dim: int | None = None
    tokens: int | None = None
    languages: str = ""
    licence: str = ""
    published: PublishedResult | None = None
    short_name: str = ""


def list_catalog(*, every: bool = False) -> Iterator[CatalogEntry]:
    """Yield the models, the starter first; ``every`` includes all pretrained models of open_clip."""
    yield _describe_starter()
    for entry in list_entry_points():
        yield CatalogEntry(name=entry.name, state="installed")
    configs = read_configs()
    for architecture, tag in import_part("pretrained").list_pretrained():
        described = _describe_open_clip(architecture, tag, configs[architecture])
        is_named = described.name in SUGGESTED or described.published is not None or described.short_name
        if every or is_named or described.state == "cached":
            yield described
    yield from _list_transformers()


def _describe_starter() -> CatalogEntry:
    packages = (CLASSIFIER.package, SENTENCES.package)
    is_installed = all(importlib.util.find_spec(package) for package in packages)
    licences = [_read_licence(package) for package in packages] if is_installed else []
    return CatalogEntry(
        name=STARTER,
        state="installed" if is_installed else "needs extra",
        extra="" if is_installed else STARTER,
        dim=StarterEncoder.dim,
        tokens=CONTEXT_LENGTH,
        languages="English",
        licence=", ".join(
            f"{package}: {licence or 'not stated'}" for package, licence in zip(packages, licences, strict=False)
        ),
    )


def _read_licence(package: str) -> str:
    """Return the licence of an installed package, empty if it states none."""
    stated = metadata.metadata(package.replace("_", "-"))
    licence = next((str(stated[key]) for key in ("License-Expression", "License") if key in stated), "")
    return "" if licence == "UNKNOWN" else licence


def _describe_open_clip(architecture: str, tag: str, config: dict[str, Any]) -> CatalogEntry:
    text, (repository, files) = config["text_cfg"], list_weight_files(architecture, tag)
    needs_transformers = bool(text.get("hf_tokenizer_name") or text.get("hf_model_name"))
    return _describe(
        f"{architecture}/{tag}",
        is_cached=bool(repository) and find_cached(repository, files),
        needs_transformers=needs_transformers,
        dim=config["embed_dim"],
        tokens=text.get("context_length", 77),
    )


def _list_transformers() -> Iterator[CatalogEntry]:
    """Yield the models of transformers that are cached, suggested, or have published results."""
    contexts = {kind: model_type.context for kind, model_type in MODEL_TYPES.items()} | {QWEN: CONTEXT}
    names = {f"hf:{repository}": kind for repository, kind in find_cached_models() if kind in contexts}
    published = (name for name in PUBLISHED if ModelName(name).scheme == "hf")
    for name in sorted({*names, *SUGGESTED_TRANSFORMERS, *published}):
        tokens = contexts[names[name]] if name in names else None
        yield _describe(name, is_cached=name in names, needs_transformers=True, tokens=tokens)


def _describe(
    name: str, *, is_cached: bool, needs_transformers: bool, tokens: int | None, dim: int | None = None
) -> CatalogEntry:
    short_name, recommended = next((item for item in RECOMMENDED.items() if item[1].model == name), ("", None))
    return CatalogEntry(
        name=name,
        state="cached" if is_cached else "needs download",
        extra="hf" if needs_transformers and importlib.util.find_spec("transformers") is None else "",
        dim=dim,
        tokens=tokens,
        languages=recommended.languages if recommended else "",
        licence=recommended.licence if recommended else "",
        published=PUBLISHED.get(name),
        short_name=short_name,
    )


def find_cached_models() -> Iterator[tuple[str, str]]:
    """Yield the repositories with a configuration in the cache of the hub, each with its model type."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    for config in sorted(folder.glob("models--*/snapshots/*/config.json")):
        try:
            kind = json.loads(config.read_text("utf-8")).get("model_type", "")
        except (OSError, ValueError, AttributeError):
            continue  # a damaged download cannot be loaded
        yield config.parents[2].name.removeprefix("models--").replace("--", "/", 1), str(kind)
