"""Loading models of transformers by name, from a local folder or the model hub."""

import importlib
import importlib.util
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

import torch

from vidret.encode.clip.weights import first_line
from vidret.encode.families.transformers_encoder import TransformersEncoder, TransformersModel, TransformersVideoEncoder
from vidret.encode.families.transformers_models import MODEL_TYPES, read_preprocessing
from vidret.encode.model_hub import find_source
from vidret.encode.names import ModelName
from vidret.encode.precision import DTYPES, choose_precision
from vidret.errors import EncoderError, MissingExtraError
from vidret.types import Sampling

logger = logging.getLogger(__name__)

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def load_transformers(
    name: ModelName, *, device: torch.device, precision: str
) -> TransformersEncoder | TransformersVideoEncoder:
    """Load ``hf:org/name`` or ``hf:FOLDER``. Code that comes with a model is never run.

    Raises:
        MissingExtraError: transformers is not installed.
        EncoderError: The name is unknown, the hub cannot be reached, the files are not those of a model of a known
            family, or the precision does not apply.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(f"the model {name.base}", "hf")
    chosen = choose_float_precision(name.base, precision, device)
    source, is_local = find_source(name, [CONFIG], WEIGHTS)
    options = {"trust_remote_code": False, "local_files_only": is_local}
    config, model, tokenizer, processor = _read_parts(name.base, source, options)
    model_type = MODEL_TYPES[config.model_type]
    num_frames = None if model_type.num_frames is None else model_type.num_frames(config, processor)
    sampling = Sampling(whole=name.whole) if num_frames is None else Sampling(num_frames=num_frames, whole=name.whole)
    loaded = TransformersModel(
        name=str(replace(name, base=f"{name.scheme}:{source}")),
        model=getattr(model, model_type.part) if model_type.part else model,
        tokenizer=tokenizer,
        model_type=model_type,
        preprocessing=read_preprocessing(name.base, processor),
        sampling=sampling,
        device=device,
        dtype=DTYPES[chosen],
    )
    return TransformersEncoder(loaded) if num_frames is None else TransformersVideoEncoder(loaded, num_frames)


def choose_float_precision(name: str, precision: str, device: torch.device) -> str:
    """Return the precision for a model of transformers, whose layers are not those that int8 replaces."""
    chosen = choose_precision(precision, device)
    if precision == "int8":
        raise EncoderError(f"a model in int8 must be a ViT with CLIP's standard blocks, got {name}")
    if precision == "auto" and chosen in ("fp16", "int8"):
        logger.info("%s is in fp32: fp16 may overflow, and int8 needs CLIP's standard blocks", name)
        return "fp32"
    return chosen


def _read_parts(name: str, source: str, options: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Return the configuration, model, tokenizer and processor of frames."""
    transformers: Any = importlib.import_module("transformers")

    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        if config.model_type not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise EncoderError(f"{name}: must be a model of one of the types {known}, got {config.model_type}")
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        processor = _read_processor(source, options)
        with hide_progress():
            model, info = transformers.AutoModel.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, **options
            )
    except EncoderError:
        raise
    except Exception as error:  # the library documents none, and its versions raise different ones
        raise EncoderError(f"{name} cannot be loaded: {first_line(error)}") from error
    missing = sorted(str(key) for key in info["missing_keys"])
    if missing:
        raise EncoderError(f"{name}: {len(missing)} weights missing: {', '.join(missing[:5])}")
    return config, model, tokenizer, processor


@contextmanager
def hide_progress() -> Iterator[None]:
    """Hide transformers' bars of progress: loading weights takes a second, unlike downloading them.

    What it prints, which are remarks on its own documentation, is logged: standard output is for data.
    """
    log: Any = importlib.import_module("transformers").utils.logging
    shows_progress = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            logger.debug("transformers: %s", line)
        if shows_progress:
            log.enable_progress_bar()


def _read_processor(source: str, options: dict[str, Any]) -> Any:
    """Return what prepares the frames: of images where there is one, else of videos."""
    transformers: Any = importlib.import_module("transformers")

    processor = transformers.AutoProcessor.from_pretrained(source, **options)
    for part in ("image_processor", "video_processor"):
        if getattr(processor, part, None) is not None:
            return getattr(processor, part)
    return transformers.AutoImageProcessor.from_pretrained(source, **options)
