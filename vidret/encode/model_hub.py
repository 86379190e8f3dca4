"""Models of the Hugging Face hub: whether one is cached, whether the hub can be reached, and loading of their parts.

Models of transformers, in a folder or a repository of the hub, are loaded without the library's remarks.
"""

import importlib
import importlib.util
import io
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch

from vidret.encode.clip.weights import first_line
from vidret.encode.names import ModelName
from vidret.errors import EncoderError, MissingExtraError
from vidret.text import format_count

HUB_TIMEOUT_S = 1.5  # the libraries' own retries take most of a minute
logger = logging.getLogger(__name__)

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def find_cached(repository: str, files: Iterable[str]) -> bool:
    """Return whether any of the files of a repository is in the cache of the hub.

    Raises:
        EncoderError: The name is invalid for a repository.
    """
    try:
        return any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in files)
    except huggingface_hub.errors.HFValidationError as error:
        raise EncoderError(f"repository must be org/name of the model hub, got {repository}") from error


def check_reachable(name: str, repository: str, files: Iterable[str]) -> None:
    """Raise EncoderError within two seconds if none of the files is cached and the hub cannot be reached."""
    if find_cached(repository, files):
        return
    reason = "HF_HUB_OFFLINE is set" if huggingface_hub.constants.HF_HUB_OFFLINE else find_obstacle()
    if reason:
        raise EncoderError(
            f"{name}: its files are not on this machine and {reason}; download them elsewhere and pass their path"
        )


def find_source(name: ModelName, configurations: Sequence[str], weights: Sequence[str] = ()) -> tuple[str, bool]:
    """Return the folder or repository of ``SCHEME:org/name`` or ``SCHEME:FOLDER``, and whether it is on this machine.

    One of the configurations must exist, and in the cache of the hub one of the weights, too. Raise EncoderError if the
    folder does not exist or has no configuration, the name is not ``org/name``, or the model is not on this machine and
    the hub cannot be reached.
    """
    rest, scheme = name.rest, name.scheme
    folder = Path(os.path.expanduser(rest))  # noqa: PTH111  that of Path fails for a user who does not exist
    if folder.is_dir():
        if not any((folder / file).is_file() for file in configurations):
            raise EncoderError(f"{folder}: must hold the {' or '.join(configurations)} of a model")
        return str(folder.absolute()), True
    if rest.count("/") != 1 or rest.startswith((".", "/", "~")) or rest.endswith("/"):
        rule = f"must be {scheme}:org/name or {scheme}: with an existing folder"
        raise EncoderError(f"{name.base}: {rule}, got no folder {rest}")
    is_cached = find_cached(rest, configurations) and (not weights or find_cached(rest, weights))
    if not is_cached:
        check_reachable(name.base, rest, [])
    return rest, is_cached


def find_obstacle() -> str:
    """Return the reason why the hub cannot be reached; empty if it can.

    The request runs in a thread, since looking up a host name has no timeout.
    """
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(_ask_hub()), daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S)
    return answers[0] if answers else f"the model hub cannot be reached (no answer within {HUB_TIMEOUT_S} s)"


def _ask_hub() -> str:
    try:
        request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return ""  # the hub is reachable; the download reports any error
    except OSError as error:
        return f"the model hub cannot be reached ({getattr(error, 'reason', error)})"


@dataclass(frozen=True, slots=True)
class Repository:
    """The location of a model's files; code among them is never run.

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
        """The options for loading any part."""
        return {"trust_remote_code": False, "local_files_only": self.is_local}

    def read_type(self) -> str:
        """Return the model type in the configuration; empty if it cannot be read."""
        try:
            return str(self.load("AutoConfig").model_type)
        except EncoderError:  # loading the model reports the error
            return ""

    def load(self, kind: str, **settings: Any) -> Any:
        """Load a part of the model by a class of transformers, such as ``AutoTokenizer``.

        Raise EncoderError if it cannot be loaded.
        """
        loader = getattr(importlib.import_module("transformers"), kind)
        try:
            return loader.from_pretrained(self.source, **self.options, **settings)
        except Exception as error:  # the library documents no exceptions, and versions differ
            raise EncoderError(f"{self.name.base} cannot be loaded: {first_line(error)}") from error

    def load_model(self, kind: str = "AutoModel", *, dtype: torch.dtype | str = torch.float32, **settings: Any) -> Any:
        """Load the model with its weights; raise EncoderError if it cannot be loaded, or weights are missing."""
        with hide_progress():
            model, info = self.load(kind, dtype=dtype, output_loading_info=True, **settings)
        if missing := sorted(str(key) for key in info["missing_keys"]):
            raise EncoderError(
                f"{self.name.base}: {format_count(len(missing), 'weight')} missing: {', '.join(missing[:5])}"
            )
        return model


def find_repository(
    name: ModelName,
    *,
    library: str = "transformers",
    extra: str = "hf",
    configurations: Sequence[str] = (CONFIG,),
    weights: Sequence[str] = WEIGHTS,
) -> Repository:
    """Return the location of a model for a library that an extra installs.

    Raise MissingExtraError if the library is not installed, or EncoderError if the name is unknown, or the hub cannot
    be reached.
    """
    if importlib.util.find_spec(library) is None:
        raise MissingExtraError(f"the model {name.base}", extra)
    return Repository(name, *find_source(name, configurations, weights))


@contextmanager
def hide_progress() -> Iterator[None]:
    """Hide transformers' progress bars, since loading weights takes only a second, unlike downloading.

    Its prints, remarks on its own documentation, are logged: standard output is for data.
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
