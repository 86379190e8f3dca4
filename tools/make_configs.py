"""Write configs/: every method on every benchmark, from one base a method.

    python tools/make_configs.py [--check]

A base is a configuration that is written by hand, such as configs/msrvtt_tempme_b32.yaml. All others are derived from
it: what a benchmark, a variant of a method, or their pair sets is below. Change a base or a table, then run this again.
``--check`` only says which files differ.
"""

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

CONFIGS = Path(__file__).parents[1] / "configs"
Settings = Mapping[str, Any]
B_16 = "ViT-B-16-quickgelu/openai"
NOTHING: Settings = {}


class Variant(NamedTuple):
    """A method on a backbone: its title, its base, where its settings are from, what differs from it, and on what."""

    title: str
    base: str
    source: str
    model: Settings = NOTHING
    benchmarks: Collection[str] = ()  # all by default


class On(NamedTuple):
    """A benchmark: its title, and what differs for every method."""

    title: str
    data: Settings
    model: Settings = NOTHING
    trainer: Settings = NOTHING


UCOFIA = "the released MSR-VTT script; the authors used 5, 8 or 15 epochs"
DEFAULTS = "the defaults of the released code"
GLSCL = "the released scripts and README"
XPOOL = "the settings of X-Pool's paper"
VARIANTS: Mapping[str, Variant] = {
    "clip_b32": Variant("CLIP4Clip's mean pooling on CLIP ViT-B/32", "msrvtt_clip_b32", "the released code"),
    "ucofia_b32": Variant("UCoFiA on CLIP ViT-B/32", "msrvtt_ucofia_b32", UCOFIA),
    "ucofia_patches_b32": Variant(
        "UCoFiA without its selection of patches on CLIP ViT-B/32",
        "msrvtt_ucofia_b32",
        f"{UCOFIA}; an ablation of the paper",
        {"options": {"selection": False}},
        ("msrvtt",),
    ),
    "xpool_b32": Variant("X-Pool on CLIP ViT-B/32", "msrvtt_xpool_b32", XPOOL, benchmarks=("msrvtt",)),
    "topk_b32": Variant(
        "Top-k pooling on CLIP ViT-B/32",
        "msrvtt_xpool_b32",
        f"{XPOOL}, with whose baseline it shares them; k is not published with them",
        {"options": {"top": 3, "dropout": None}},
        ("msrvtt",),
    ),
    "promptswitch_b32": Variant("Prompt Switch on CLIP ViT-B/32", "msrvtt_promptswitch_b32", DEFAULTS),
    "glscl_b32": Variant("GLSCL on CLIP ViT-B/32", "msrvtt_glscl_b32", GLSCL),
    "glscl_b16": Variant("GLSCL on CLIP ViT-B/16", "msrvtt_glscl_b32", GLSCL, {"weights": B_16}),
    "tempme_b32": Variant("TempMe on CLIP ViT-B/32", "msrvtt_tempme_b32", DEFAULTS),
    "tempme_b16": Variant(
        "TempMe on CLIP ViT-B/16",
        "msrvtt_tempme_b32",
        f"{DEFAULTS}; r is not published: 16 saves the 51 % of the multiply-adds that the paper reports",
        {"weights": B_16, "merging": {"r": 16}},
    ),
    "tempme_full_b32": Variant(
        "TempMe on CLIP ViT-B/32, all weights trained",
        "msrvtt_tempme_b32",
        f"{DEFAULTS}; the paper reports full fine-tuning without its rates, which are CLIP4Clip's here",
        {"lora_rank": 0, "lr": 1e-4, "options": {"full": True}},
    ),
}
PARAGRAPHS: dict[str, Any] = {"num_frames": 64, "num_words": 64}


def _data(name: str, folder: str = "", **more: Any) -> dict[str, Any]:
    folder = folder or name
    return {"name": name, "annotations": folder, "videos": f"{folder}/videos", "cache": f"cache/{folder}", **more}


BENCHMARKS: Mapping[str, On] = {
    "msrvtt": On("MSR-VTT 9k", {}),
    "msrvtt7k": On("MSR-VTT 7k", {"train_split": "train-7k"}),
    "msvd": On("MSVD", _data("msvd", train_split="train", val_split="val")),
    "lsmdc": On("LSMDC", _data("lsmdc", train_split="train", val_split="val")),
    "vatex": On("VATEX", _data("vatex", train_split="train", val_split="val-1500")),
    "didemo": On("DiDeMo", _data("didemo", train_split="train", val_split="val", **PARAGRAPHS)),
    "activitynet": On("ActivityNet, paragraphs", _data("activitynet", train_split="train", **PARAGRAPHS)),
}
# What a method has of its own on a benchmark: settings of the model, the data and the trainer.
FACTORS = {"merging": {"factors": [4, 4, 4]}}, NOTHING, NOTHING  # 64 frames to one clip; those published are for 12
FEW_FRAMES = {"num_frames": 12}, {"num_frames": 6, "num_words": 77}, NOTHING
PAIRS: Mapping[tuple[str, str], tuple[Settings, Settings, Settings]] = {
    ("tempme", "didemo"): FACTORS,
    ("tempme", "activitynet"): FACTORS,
    ("promptswitch", "didemo"): FEW_FRAMES,
    ("promptswitch", "activitynet"): FEW_FRAMES,
    ("glscl", "didemo"): (NOTHING, {"batch_size": 32}, NOTHING),
    ("glscl", "activitynet"): ({"options": {"num_concepts": 12}}, {"batch_size": 64}, {"max_epochs": 10}),
}
# Videos that are encoded at a time, by whether patches are small and videos long, so that a step fits into 80 GB.
CHUNKS = {(False, True): 32, (True, False): 32, (True, True): 8}
NOT_CHUNKED = {"tempme_b16": (True, False)}  # merging saves enough; see bench_train.py
R2 = "the released configuration, which validates on the reported split; here training videos are held out"


def _moments(name: str, *, fps: float = 0.5, **model: Any) -> dict[str, Any]:
    encoder = f"ViT-B-32-quickgelu/openai#fps={fps:g}"
    data_settings = {"encoder": encoder, "fps": fps, "batch_size": 32, "saliency_range": [0.0, 1.0]}
    return {"data": {**_data(name, name.replace("-", "_")), **data_settings}, "model": {"lr": 2.5e-4, **model}}


CHARADES: dict[str, Any] = {"recipe": "charades", "drop_at": 30, "dropout": 0.35, "saliency_weight": 0.01}
TACOS: dict[str, Any] = {"recipe": "tacos", "drop_at": 50, "saliency_weight": 0.05}
EGO4D: dict[str, Any] = {"recipe": "ego4d", "drop_at": 20, "dropout": 0.3}
HEADS: Mapping[str, On] = {
    "charades": On("Charades-STA", **_moments("charades-sta", fps=1.0, **CHARADES), trainer={"max_epochs": 50}),
    "tacos": On("TACoS", **_moments("tacos", **TACOS), trainer={"max_epochs": 100}),
    "ego4d": On("Ego4D NLQ", **_moments("ego4d-nlq", **EGO4D), trainer={"max_epochs": 30}),
}
HIGHLIGHTS: dict[str, Any] = {"strides": [1], "tef": False, "boundaries": False, "across_samples": False}
HIGHLIGHTS |= {"warm_up": 50, "drop_at": None}
DOMAINS = {
    "youtube": ("YouTube Highlights", "youtube-highlights", "dog", 0.6, [0.0, 1.0], 200),
    "tvsum": ("TVSum", "tvsum", "BK", 0.5, [1.0, 5.0], 500),
}


def derive(base: Settings, model: Settings, data: Settings, trainer: Settings) -> dict[str, Any]:
    """Return a configuration with other settings; a dictionary among them is merged, None removes a setting."""
    config = deepcopy(dict(base))
    for section, changes in (("model", model), ("data", data)):
        merge(config[section]["init_args"], changes)
    merge(config["trainer"], trainer)
    return config


def merge(settings: dict[str, Any], changes: Settings) -> None:
    """Change settings in place."""
    for name, value in changes.items():
        if value is None:
            settings.pop(name, None)
        elif isinstance(value, Mapping):
            merge(settings.setdefault(name, {}), value)
        else:
            settings[name] = value


def list_configs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the name, the header and the content of every derived configuration."""
    for variant_name, variant in VARIANTS.items():
        base, method = read(variant.base), variant_name.partition("_")[0]
        for name, on in BENCHMARKS.items():
            stem = f"{name}_{variant_name}"
            if stem == variant.base or (variant.benchmarks and name not in variant.benchmarks):
                continue
            benchmark_settings = {"num_frames": on.data["num_frames"]} if "num_frames" in on.data else {}
            if "num_words" in on.data and "num_words" in base["model"]["init_args"].get("options", {}):
                benchmark_settings["options"] = {"num_words": on.data["num_words"]}
            config = derive(
                base, {**variant.model, "out": f"models/{stem}.safetensors", **benchmark_settings}, on.data, NOTHING
            )
            config = derive(config, *PAIRS.get((method, name), (NOTHING, NOTHING, NOTHING)))
            config["model"]["init_args"] |= choose_chunk(variant_name, config["data"]["init_args"])
            yield stem, f"{variant.title}, {on.title}.\n# Source: {variant.source}.", config
    base = read("qvhighlights_r2_b32")
    for name, on in HEADS.items():
        stem = f"{name}_r2_b32"
        header = f"R2-Tuning on the frozen CLIP ViT-B/32, {on.title}.\n# Source: {R2}."
        yield stem, header, derive(base, {**on.model, "out": f"models/{stem}.safetensors"}, on.data, on.trainer)
    for name, (title, benchmark, domain, fps, saliency, epochs) in DOMAINS.items():
        stem, settings = f"{name}_r2_b32", _moments(benchmark, lr=5e-4, fps=fps, recipe=name)
        model = {**settings["model"], **HIGHLIGHTS, "fps": fps, "out": f"models/{stem}.safetensors"}
        data = {**settings["data"], "domain": domain, "batch_size": 4}
        data |= {"saliency_range": saliency, "min_seconds": None, "val_share": 0.0}
        config = derive(base, model, data, {"max_epochs": epochs})
        del config["trainer"]["callbacks"]  # nothing to choose a checkpoint by without validation
        header = f"R2-Tuning on the frozen CLIP ViT-B/32, {title}: one head for each domain, set domain and out.\n"
        yield stem, f"{header}# Source: the released configuration; the last weights are kept.", config


def choose_chunk(variant: str, data: Settings) -> Settings:
    """Return the chunk size of a model, nothing if a step fits into memory without."""
    case = variant.endswith("b16"), data.get("num_frames", 12) > 12
    size = CHUNKS.get(case, 0)
    return {"chunk_size": size} if 0 < size < data["batch_size"] and NOT_CHUNKED.get(variant) != case else {}


def read(name: str) -> dict[str, Any]:
    """Return the content of a base."""
    content: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text("utf-8"))
    return content


class Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes short values on one line, and all else as a block."""


def represent(dumper: Any, value: Any) -> Any:
    """Return the node of a dictionary or a list, on one line if it is short and holds no other dictionary."""
    inner = list(value.values()) if isinstance(value, dict) else value
    is_short = "{" not in str(inner) and len(str(value)) < 105
    if isinstance(value, dict):
        return dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=is_short)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=is_short)


Dumper.add_representer(dict, represent)
Dumper.add_representer(list, represent)


def write(stem: str, header: str, config: Settings) -> str:
    """Return the text of a configuration."""
    command = f"vidret train fit --config configs/{stem}.yaml --data.init_args.videos VIDEOS"
    text: str = yaml.dump(config, Dumper=Dumper, sort_keys=False, width=116)
    lines = f"{header}\n# {command} --data.init_args.annotations ANNOTATIONS\n# Made by tools/make_configs.py."
    return f"# {lines}\n{text}"


def main() -> None:
    """Write the configurations, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    check = parser.parse_args().check
    stale = []
    for stem, header, config in list_configs():
        path, text = CONFIGS / f"{stem}.yaml", write(stem, header, config)
        if not path.is_file() or path.read_text("utf-8") != text:
            stale.append(path.name)
            if not check:
                path.write_text(text, "utf-8")
    print(f"{'differ' if check else 'written'}: {', '.join(stale) or 'none'}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
