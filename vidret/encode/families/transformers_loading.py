"""Models of transformers, in a folder or a repository of the hub: their parts, loaded without remarks."""

import importlib
import importlib.util
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch

from vidret.encode.clip.weights import first_line
from vidret.encode.model_hub import find_source
from vidret.encode.names import ModelName
from vidret.errors import EncoderError, MissingExtraError

logger = logging.getLogger(__name__)

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class Repository:
    """Where the files of a model are; code among them is never run.

    Attributes:
        name: The name of the model, for errors.
        source: A folder or a repository of the hub.
        is_local: Whether the files are on this machine.
    """

    name: ModelName
    source: str
    is_local: bool

    @property
    def options(self) -> dict[str, Any]:
        """The options of everything that is loaded from it."""
        return {"trust_remote_code": False, "local_files_only": self.is_local}

    def read_type(self) -> str:
        """Return the type that the configuration of the model states; empty if it cannot be read."""
        try:
            return str(self.load("AutoConfig").model_type)
        except EncoderError:  # loading the model says what is wrong
            return ""

    def load(self, kind: str, **settings: Any) -> Any:
        """Return a part of the model, by a class of transformers such as ``AutoTokenizer``.

        Raises:
            EncoderError: It cannot be loaded.
        """
        loader = getattr(importlib.import_module("transformers"), kind)
        try:
            return loader.from_pretrained(self.source, **self.options, **settings)
        except Exception as error:  # the library documents none, and its versions raise different ones
            raise EncoderError(f"{self.name.base} cannot be loaded: {first_line(error)}") from error

    def load_model(self, kind: str = "AutoModel", *, dtype: torch.dtype | str = torch.float32, **settings: Any) -> Any:
        """Return the model with its weights.

        Raises:
            EncoderError: It cannot be loaded, or weights are missing.
        """
        with hide_progress():
            model, info = self.load(kind, dtype=dtype, output_loading_info=True, **settings)
        if missing := sorted(str(key) for key in info["missing_keys"]):
            raise EncoderError(f"{self.name.base}: {len(missing)} weights missing: {', '.join(missing[:5])}")
        return model


def find_repository(
    name: ModelName,
    *,
    library: str = "transformers",
    extra: str = "hf",
    configurations: Sequence[str] = (CONFIG,),
    weights: Sequence[str] = WEIGHTS,
) -> Repository:
    """Return where a model is that a library of an extra runs.

    Raises:
        MissingExtraError: The library is not installed.
        EncoderError: The name is unknown, or the hub cannot be reached.
    """
    if importlib.util.find_spec(library) is None:
        raise MissingExtraError(f"the model {name.base}", extra)
    return Repository(name, *find_source(name, configurations, weights))


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
