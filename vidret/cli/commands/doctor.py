"""The command ``vidret doctor``: what works on this machine, and what to install for the rest."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

from vidret.cli.app import app
from vidret.cli.options import DEFAULT_INDEX, JsonOption, index_option
from vidret.errors import MissingExtraError, VidretError
from vidret.present.show import print_json
from vidret.present.terminal import show_status, write_stdout
from vidret.text import format_count

State = Literal["ok", "missing", "broken"]
LITTLE_SPACE = 1 << 30  # bytes; an index of many videos needs more
# Module, purpose, and the extra that installs it; None if vidret cannot work without the module.
PACKAGES = (
    ("torch", "models", None),
    ("av", "decoding", None),
    ("decord", "faster decoding", "decord"),
    ("open_clip", "CLIP models", None),
    ("faiss", "vector search", "cpu"),
    ("transformers", "models by hf:", "hf"),
    ("sentence_transformers", "models by st:", "st"),
    ("faster_whisper", "speech", "words"),
    ("openvino", "on-screen text", "words"),
    ("fastapi", "vidret serve", "serve"),
    ("pytorch_lightning", "vidret train", "train"),
    ("opentimelineio", "OpenTimelineIO exports", "editors"),
)
# Pure Python on top of PyTorch, and the slowest to import: looked up, not imported.
NOT_LOADED = ("open_clip", "transformers", "sentence_transformers", "pytorch_lightning")
DISTRIBUTIONS = {
    "decord": "decord2",
    "open_clip": "open_clip_torch",
    "faiss": "faiss-cpu",
    "pytorch_lightning": "pytorch-lightning",
}
REQUIRED_EXTRAS = (None, "cpu")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: what was checked, whether it works, and the facts or the advice."""

    name: str
    state: State
    detail: str


@app.command("doctor")
def doctor_command(
    index: Annotated[Path, index_option(text="Index folder to check.")] = DEFAULT_INDEX, as_json: JsonOption = False
) -> None:
    """Check packages, models, devices, disk and permissions, and say what to install. Exits with 1 if one is broken."""
    with show_status("checking"):
        checks = list(run_checks(index))
    if as_json:
        print_json(checks)
    else:
        width = max(len(check.name) for check in checks)
        write_stdout("".join(f"{check.state:8} {check.name:{width}}  {check.detail}\n" for check in checks))
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(1)


def run_checks(index: Path) -> Iterator[Check]:
    """Yield the checks of this machine, in the order of their dependencies."""
    from vidret.present.ffmpeg import find_ffmpeg

    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Check(
        "vidret", "ok", f"{metadata.version('vidret')}, Python {version}, {format_count(os.cpu_count() or 1, 'core')}"
    )
    for module, purpose, extra in PACKAGES:
        yield check_package(module, purpose, extra)
    yield check_torchcodec()
    yield _try("device", _describe_device)
    yield _try("starter encoder", _try_starter, state="missing")
    yield _try("models of words", _try_words, state="missing")
    yield _try("model of faces", _try_faces, state="missing")
    yield _try("encoder of voices", _try_voices, state="missing")
    yield _try("ffmpeg", find_ffmpeg, state="missing")
    yield _try("disk", lambda: _describe_disk(index))
    yield _try("index", lambda: _describe_index(index))


def check_package(module: str, purpose: str, extra: str | None) -> Check:
    """Check that a package can be imported; one in ``NOT_LOADED`` must only be installed."""
    name = f"{module} ({purpose})"
    if module in NOT_LOADED and importlib.util.find_spec(module) is not None:
        return Check(name, "ok", f"{_find_version(module)}, not loaded")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        state: State = "broken" if extra in REQUIRED_EXTRAS else "missing"
        install = "vidret" if extra in (None, "decord") else f"vidret[{extra}]"
        return Check(name, state, f'{error}: pip install "{install}"')
    except Exception as error:  # a broken library may raise anything
        return Check(name, "broken", f"cannot be imported: {' '.join(str(error).split())}")
    return Check(name, "ok", _find_version(module))


def check_torchcodec() -> Check:
    """Check that torchcodec loads, which needs FFmpeg's libraries and a matching PyTorch."""
    from vidret.video.decoders.torchcodec import load_torchcodec

    name = "torchcodec (decoding on NVIDIA GPUs)"
    try:
        return Check(name, "ok", load_torchcodec().__version__)
    except VidretError as error:
        return Check(name, "missing" if isinstance(error, MissingExtraError) else "broken", str(error))


def _find_version(module: str) -> str:
    try:
        return metadata.version(DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:  # another distribution provides it, such as faiss-gpu
        return "version unknown"


def _try(name: str, describe: Callable[[], str], *, state: State = "broken") -> Check:
    """Return a check that passes if ``describe`` returns facts, else has ``state`` and the reason."""
    try:
        return Check(name, "ok", describe())
    except (VidretError, OSError, ImportError) as error:
        return Check(name, state, " ".join(str(error).split()))


def _describe_device() -> str:
    import torch

    from vidret.devices import CPU, choose_device

    device = choose_device()
    return f"{device}: PyTorch {torch.__version__} finds no accelerator" if device == CPU else device


def _try_starter() -> str:
    from vidret.encode.families.registry import load_encoder

    encoder = load_encoder("starter", device="cpu")
    encoder.encode_text(["a dog"])
    return f"works, {encoder.dim} dimensions"


def _try_words() -> str:
    from vidret.channels.texts.options import WordsOptions

    options = WordsOptions()
    options.check_installed()
    options.check_models()
    return ", ".join(f"{source}: {model}" for source, model in options.models().items())


def _try_faces() -> str:
    import numpy as np

    from vidret.channels.people.reading import load_face_model

    model = load_face_model()
    vectors = model.describe(np.zeros((1, model.side, model.side, 3), np.uint8))
    return f"works, {vectors.shape[1]} dimensions ({model.name})"


def _try_voices() -> str:
    import numpy as np

    from vidret.channels.voices.encoder import BUNDLED, load_voice_encoder

    encoder = load_voice_encoder(BUNDLED)
    vectors = encoder.encode([np.zeros(16_000, np.float32)])
    return f"works, {vectors.shape[1]} dimensions ({encoder.digest})"


def _describe_disk(index: Path) -> str:
    folder = next(path for path in (index.absolute(), *index.absolute().parents) if path.exists())
    if not os.access(folder, os.W_OK):
        raise VidretError(f"{folder}: this user may not write here, so that an index can be searched but not changed")
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SPACE:
        raise VidretError(f"{folder}: only {free / 1e9:.2f} GB are free")
    return f"{free / 1e9:.0f} GB free at {folder}"


def _describe_index(index: Path) -> str:
    from vidret.store.store import Store

    if not Store.exists(index):
        return f"none at {index}"
    with Store.open(index) as store:
        info = store.info()
        return f"{index}: {format_count(info.videos, 'video')}, encoder {store.encoder_name}"
